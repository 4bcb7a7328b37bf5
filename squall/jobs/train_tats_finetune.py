"""`squall train tats-finetune`: a video classifier on an encoder that `squall train tats` trained, or on any VideoMAE.

All of it is trained, or a linear probe on frozen features. The run directory ends with ``model/``, a Hugging Face
VideoMAEForVideoClassification that `squall evaluate` and `squall attack video` open by its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from squall.actors.classifier_loop import ClassifierWorkersConfig
from squall.actors.clip_sources import make_clip_source
from squall.actors.placement import LEARNER
from squall.actors.resources import Demand
from squall.actors.video_encoder_files import encoder_config
from squall.actors.video_finetune_loop import FinetuneLearner, FinetuneTask, TestViewsConfig
from squall.algorithms.masked_video.finetune_config import FinetuneConfig
from squall.jobs.console import counted, say
from squall.jobs.run_session import RunSession, RunSessionConfig
from squall.jobs.train_classifier import MODEL, Pace, advance, validate
from squall.platform.class_list import class_indices
from squall.platform.clip_data import TatsDataConfig
from squall.platform.clip_lists import has_validation
from squall.platform.runs import filling, from_here


class TatsFinetuneConfig(FinetuneConfig, RunSessionConfig):
    """A video classifier on an encoder that was trained before."""

    encoder: str
    """Folder models/ARM/seed-S of `squall train tats`, or a VideoMAE as a Hugging Face folder or hub id; clips have its
    size."""
    data: TatsDataConfig = TatsDataConfig()
    """Labelled clips."""
    views: TestViewsConfig = TestViewsConfig()
    """How test clips are looked at, once, when training is done."""
    validate_every_epochs: float = Field(1.0, gt=0)
    """How often figures are told and validation clips, where there are any, are looked at. They choose nothing: the last
    weights are kept."""
    learner: ClassifierWorkersConfig = ClassifierWorkersConfig()
    """Ray Train workers."""

    @model_validator(mode="after")
    def _consistent(self) -> TatsFinetuneConfig:
        if self.batch_clips < self.learner.workers:
            raise ValueError(f"batch_clips {self.batch_clips} does not go round learner.workers {self.learner.workers}")
        return self


def run(config: TatsFinetuneConfig) -> int:
    """Train, look at the test clips once, write the run directory."""
    task = prepare(config)
    marks = stops(config, len(task.train), task.total_steps)
    with RunSession(config, "train tats-finetune", task.total_steps) as session:
        note_dropped(session, [line for source in (task.train, task.test) for line in source.dropped])
        session.start(demands(config), plan(config, task))
        learner = start_learner(session, config, task)
        with session.stops_well(learner, dict):
            pace = Pace()
            with session.progress.phase("train"):
                for step, seen in marks.items():
                    if step > session.steps_done:
                        advance(session, learner, step, pace)
                        validate(session, learner, seen)
                        session.save_if_due(learner, {})
            finish(session, learner, config, task)
    return 0


def prepare(config: TatsFinetuneConfig) -> FinetuneTask:
    """Look at the encoder and find the clips; nothing is decoded.

    Raises:
        ConfigError, DataError: what cannot be used, before anything is written or started.
    """
    grid, data = encoder_config(config.encoder).grid(), config.data
    train, test = (make_clip_source(data, grid, split, config.seed) for split in ("train", "test"))
    class_indices(train.classes)
    watched = data.format == "embedded" or has_validation(data)
    validation = make_clip_source(data, grid, "validation", config.seed) if watched else None
    local = Path(config.encoder)
    encoder = str(local.resolve()) if local.exists() else config.encoder  # workers have another working directory
    return FinetuneTask(encoder, train, validation, test, config.views, config.total_steps(len(train)),
                        data.decode_threads)


def demands(config: TatsFinetuneConfig) -> list[Demand]:
    """What a run reserves on the cluster."""
    learner = config.learner
    return [Demand(LEARNER, learner.workers, learner.cpus, learner.gpus)]


def steps(config: TatsFinetuneConfig) -> int:
    """How many steps a run takes; for that its training clips are looked for."""
    return config.total_steps(len(make_clip_source(config.data, encoder_config(config.encoder).grid(), "train", config.seed)))


def stops(config: TatsFinetuneConfig, clips: int, total: int) -> dict[int, bool]:
    """Steps at which there is something to do beside training, and whether figures are told there."""
    often = max(1, round(config.validate_every_epochs * clips / config.batch_clips))
    told = {*range(often, total - often // 2, often), total}
    every = config.checkpoint_every_steps
    return {step: step in told for step in sorted({*told, *(range(every, total, every) if every else ())})}


def plan(config: TatsFinetuneConfig, task: FinetuneTask) -> list[str]:
    """What there is to do, shown before any worker starts."""
    sizes, views = encoder_config(config.encoder), config.views
    what = "a linear probe on the frozen features" if config.mode == "linear" else "all weights"
    watched = f", {len(task.validation):,} for validation" if task.validation else ""
    looks = "once" if config.data.format == "embedded" else f"{views.clips} x {views.crops} times"
    return [f"{what} of {config.encoder}: {counted(sizes.depth, 'block')} of width {sizes.width}, clips of "
            f"{sizes.frames} frames of {sizes.image_height}x{sizes.image_width}",
            f"{len(task.train):,} clips to train on ({task.train.source}){watched}, {len(task.test):,} to test by "
            f"({task.test.source}), {len(task.train.classes)} classes",
            f"{task.total_steps:,} steps of {config.batch_clips} clips on {config.learner.workers} worker(s), test clips are "
            f"seen {looks}"]


def start_learner(session: RunSession, config: TatsFinetuneConfig, task: FinetuneTask) -> FinetuneLearner:
    """Start the workers, which go on from a checkpoint where there is one."""
    with session.phase("learner"):
        learner = FinetuneLearner(config.learner, config, task, session.run.path, resume=session.resumed.checkpoint)
        session.callback(learner.stop)
        facts = learner.start(session.placement.give_back(LEARNER))
    session.progress.note(f"training on {facts['device']}")
    return learner


def finish(session: RunSession, learner: FinetuneLearner, config: TatsFinetuneConfig, task: FinetuneTask) -> None:
    """Write the classifier, results and report."""
    folder = session.run.path / MODEL
    with session.phase("test"), filling(folder) as unfinished:
        facts = learner.keep(unfinished)
    known = {line for source in (task.train, task.test) for line in source.dropped}
    note_dropped(session, [line for line in facts["dropped"] if line not in known])
    page = session.write_results(results_of(facts, config))
    among = f", {facts['top5']:.1%} among the likeliest five" if "top5" in facts else ""
    say(session.console, f"{config.mode}: {facts['top1']:.1%} of {facts['clips']:,} test clips{among}")
    say(session.console, f"classifier: {from_here(folder)}\nreport: {page}")


def results_of(facts: dict[str, Any], config: TatsFinetuneConfig) -> dict[str, Any]:
    """results.json of a run: accuracies as fractions."""
    seen = f"{facts['clips']:,} clips, looked at once, with the last weights"
    accuracy, notes = {"test": facts["top1"]}, {"test": seen}
    if "top5" in facts:
        accuracy["test, among five"] = facts["top5"]
        notes["test, among five"] = f"The class is among the likeliest five of {seen}"
    return {"seed": config.seed, "mode": config.mode, "encoder": config.encoder, "steps": facts["steps"],
            "test_clips": facts["clips"], "dropped_clips": len(facts["dropped"]), "accuracy": accuracy, "accuracy_notes": notes}


def note_dropped(session: RunSession, lines: list[str]) -> None:
    """Record clips that cannot be used: every one as an event, their number on the terminal."""
    for line in lines:
        session.run.event("clip_dropped", message=line)
    if lines:
        session.progress.note(f"{len(lines)} clips cannot be used; the first: {lines[0]}")


def report_section(config: TatsFinetuneConfig) -> list[str]:
    """What a reader of the report must know."""
    how = ("A linear probe: the encoder stays as it is, and a linear layer learns from its features"
           if config.mode == "linear" else "All weights of the encoder are trained")
    seen = "as they were drawn"
    if config.data.format != "embedded":
        seen = "cut at random" + " and half of them mirrored" * config.data.views.flip
    return [f"{how}; from {config.encoder}, seed {config.seed}. Test clips were looked at once, with the last weights.",
            f"Accuracy while training is that on clips as they were learned from, {seen}."]
