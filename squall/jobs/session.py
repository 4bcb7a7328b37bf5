"""What every job that trains a video model has around its loop: manifest, samplers, learner, held-out questions, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from squall.actors.engine_config import EngineActorsConfig
from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.judge_config import JudgeConfig
from squall.actors.learner import Learner, LearnerConfig, Objective
from squall.actors.placement import LEARNER
from squall.actors.resources import Demand
from squall.actors.reward_worker import Failure
from squall.actors.rollout_engine import EngineConfig
from squall.actors.sampling import GroupSampler
from squall.actors.shared_paths import Wanted
from squall.actors.timeline import actor_spans
from squall.actors.weight_transfer import EngineFleet
from squall.algorithms.corruption import STANDARD_KINDS, CorruptionSpec, Mixture
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig
from squall.jobs import heldout
from squall.jobs.resume import ResumePoint, find_sampling_point
from squall.jobs.run_session import RunSession, RunSessionConfig
from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Manifest, load_manifest
from squall.platform.models import ModelConfig, resolve_model_path
from squall.platform.progress import print_results
from squall.platform.prompts import prompt_template
from squall.platform.report import balance
from squall.platform.runs import append_line, to_json
from squall.platform.store import RolloutStore
from squall.platform.trace import Span, write_trace
from squall.platform.tracking import read_metrics
from squall.platform.video import FrameSampling


class DataConfig(Config):
    """Training questions and how their clips are read."""

    train: Path
    """Manifest (JSON, JSONL or Parquet) of training questions."""
    prompt_template: str = "video_r1"
    """`video_r1`, `compact`, or a text of your own with {question}, {options} and {instruction}."""
    frames: FrameSampling = FrameSampling()
    """Frame sampling and resolution."""
    cache: Path | None = None
    """Folder for decoded clips; None keeps nothing on disk."""


class CorruptionConfig(Config):
    """Which corruptions training clips pass through; one kind per clip."""

    kinds: tuple[str, ...] | dict[str, float] = STANDARD_KINDS
    """Drawn alike; or with probabilities, {fog: 0.3, night: 0.2}, of which what is missing to 1 is no corruption. An entry is
    a kind, module:function or learned:FOLDER of trained attackers, may have values of its own (fog 0.8 drift=0.1) and be
    composed (night + light_rain)."""
    severity: tuple[float, float] = (0.4, 0.9)
    """Range from which each clip's severity is drawn uniformly."""

    @model_validator(mode="after")
    def _known(self) -> CorruptionConfig:
        try:
            _ = self.mixture
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def mixture(self) -> Mixture:
        """What clips' corruptions are drawn from."""
        return Mixture.of(self.kinds, self.severity)

    def draw(self, seed: int) -> CorruptionSpec | None:
        """The corruption that belongs to a seed, or none."""
        return self.mixture.draw(seed)


class SessionConfig(RunSessionConfig):
    """What every job that trains a video model is told."""

    trace_steps: tuple[int, ...] = ()
    """Steps (from 1) of which to write trace-step-N.json, to be opened in ui.perfetto.dev; each costs some seconds."""
    data: DataConfig
    """Training data."""
    model: ModelConfig = ModelConfig()
    """Policy."""
    engine: EngineConfig = EngineConfig()
    """vLLM rollout engines."""
    workers: WorkersConfig = WorkersConfig()
    """Corruption and reward workers."""
    balance_after_steps: int = Field(10, ge=0)
    """Say after so many steps of a run, and at its end, what bounds a step and what to change; 0 says it at the end alone."""


def refuse_sharded_adapters(model: ModelConfig, learner: LearnerConfig) -> None:
    """Raise ValueError for a model and a learner that do not go together."""
    if model.lora is not None and learner.optimiser.zero_stage == 3:
        raise ValueError("model.lora with learner.optimiser.zero_stage 3: adapters cannot be merged into sharded weights; "
                         "take zero_stage 2")


class Session(RunSession):
    """A job that samples answers or learns from them. What can be refused is refused in `__init__`, before any actor starts."""

    config: SessionConfig

    def __init__(self, config: SessionConfig, job: str, total_steps: int) -> None:
        """`job` is the command's name in the registry, such as ``train tgrpo``."""
        self.model_path = resolve_model_path(config.model.path)
        prompt_template(config.data.prompt_template)
        self.manifest = self._load(config.data.train, "data.train")
        super().__init__(config, job, total_steps)
        self.dropped: Counter[str] = Counter(rejection.reason for rejection in self.manifest.rejected)
        if config.resume:
            self._count_earlier_drops()
        self.store = RolloutStore(self.run.rollouts)
        self._step_started = time.monotonic()
        self._reasons_told: set[str] = set()
        self._learner: Learner | None = None
        self._learner_size: dict[str, int] = {}
        """What differs from the configuration where there is no room for all workers."""
        self._steps_here = 0
        """Steps that this process has taken; before a resumption there may have been others, on other nodes."""

    def _own_point(self) -> ResumePoint:
        return find_sampling_point(self.run) if getattr(self.config, "rollouts_only", False) else super()._own_point()

    def _count_earlier_drops(self) -> None:
        """What the steps of a resumed run lost before, so that its results count all of them."""
        for row in read_metrics(self.run.metrics):
            for name, count in row.items():
                if name.startswith("dropped/"):
                    self.dropped[name.removeprefix("dropped/")] += int(count)

    def _load(self, path: Path, key: str) -> Manifest:
        if not path.is_file():
            raise ConfigError(f"{key} = {path}: no such manifest; `squall data embedded` writes the embedded one")
        manifest = load_manifest(path, on_error="collect")
        if not manifest.samples:
            first = manifest.rejected[0].message if manifest.rejected else f"{path}: no records"
            raise DataError(f"{key}: no usable record; the first problem: {first}")
        return manifest

    def __enter__(self) -> Session:
        super().__enter__()
        for rejection in self.manifest.rejected:
            self.run.event("sample_rejected", reason=rejection.reason, sample=rejection.sample_id, message=rejection.message)
        if self.manifest.rejected:
            self.progress.note(f"{len(self.manifest.rejected)} of the manifest's records cannot be used, counted in the "
                               f"report; the first: {self.manifest.rejected[0].message}")
        return self

    def _read_on_nodes(self) -> Wanted:
        """The model, where it is a folder, and some clips: all would take long, and they usually lie in one place."""
        samples, model = self.manifest.samples, Path(self.model_path)
        some = [Path(samples[place].media).absolute() for place in {0, len(samples) // 2, len(samples) - 1}]
        models = {"model.path": [model.absolute()]} if model.is_dir() else {}
        return {"corruption worker": {"data.train": some}, "engine": models, LEARNER: models}

    def launch_sampler(self, rewards: RewardConfig, engines: bool = True, judge: JudgeConfig | None = None,
                       needs_judge: bool = False) -> GroupSampler:
        """Start corruption workers, reward workers and engines; without `engines` the corruption workers alone.

        `await_actors` waits for them.
        """
        config = self.config
        self.sampler = GroupSampler(SamplerConfig(
            run_id=self.run.name, model_path=self.model_path, model=config.model, engine=config.engine,
            workers=config.workers, frames=config.data.frames, cache=config.data.cache,
            prompt_template=config.data.prompt_template, rewards=rewards, judge=judge or JudgeConfig(),
            ledger=self.run.path.absolute() / "judge.sqlite", needs_judge=needs_judge, logs=self.run.logs),
            on_state=self._on_state, placement=self.placement, on_wait=self._on_wait)
        self._stack.callback(self.sampler.stop)
        self.sampler.launch(engines)
        return self.sampler

    def launch_learner(self, learner: LearnerConfig, objective: Objective, *, tgrpo: TGRPOConfig | None = None,
                       rewards: RewardConfig | None = None, temperature: float = 1.0) -> Learner:
        """Start the Ray Train workers, which load the model while engines load theirs; `await_actors` waits for both.

        Where an engine may be on a worker's GPU it comes first: vLLM measures what memory is free, which none may take then.
        """
        engine = self.config.engine
        if engine.gpus % 1 or learner.gpus % 1:
            self._await_sampler()
        place = self.placement.give_back(LEARNER)
        if place is not None and place.count < learner.workers:
            self._learner_size = {"workers": place.count}
            learner = learner.model_copy(update=self._learner_size)
        model = self.config.model.model_copy(update={"path": self.model_path})  # workers run in other directories
        fleet = EngineFleet(self.sampler.engines, engine.tensor_parallel_size, model.train_vision, engine.request_timeout_s)
        self._learner = Learner(learner, model, objective, self.run.path, total_steps=self._total_steps, tgrpo=tgrpo,
                                rewards=rewards, temperature=temperature, seed=self.config.seed, fleet=fleet,
                                weight_transfer=engine.weight_transfer, resume=self.resumed.checkpoint)
        self._stack.callback(self._learner.stop)
        self._learner.launch(place)
        return self._learner

    def await_actors(self) -> None:
        """Wait until all that was launched can serve, engines of a resumed run with its weights."""
        self._await_sampler()
        if self._learner is None:
            return
        with self.phase("learner"):
            self._learner.wait()
            self.sampler.connect(self._learner.publish)
            if self.resumed.checkpoint and self.sampler.engines:
                self.sampler.update_weights(self.steps_done)

    def _await_sampler(self) -> None:
        with self.phase("engines"):
            self.sampler.wait()

    def begin_step(self) -> None:
        """Forget the phase times of what came before."""
        self._step_phases.clear()
        self._spans.clear()
        self._step_started = time.monotonic()
        self.sampler.idle_seconds()
        self.sampler.take_work()
        self.progress.begin_step()

    def record_step(self, step: int, metrics: Mapping[str, float],
                    learner_spans: Sequence[tuple[str, float, float]] = ()) -> None:
        """Log one finished step (counted from 1), with its phase times, idle shares, retries and what befell workers.

        Args:
            learner_spans: (name, start, end) of what the learner did, seconds since the epoch, for the step's trace.
        """
        elapsed = time.monotonic() - self._step_started
        own = {f"time/{phase}": seconds for phase, seconds in self._step_phases.items()}
        own["seconds_per_step"] = elapsed
        own["idle/trainer"] = 1.0 - min(1.0, self._step_phases["learn"] / elapsed)
        if self.sampler.engines:
            own["idle/rollout"] = min(1.0, self.sampler.idle_seconds() / elapsed)
        own |= self.sampler.take_work().metrics(elapsed)
        own |= {f"retried/{reason}": count for reason, count in self.sampler.take_retries().items()}
        self._note_workers(step)
        self.tracker.log(step, {**own, **metrics})
        self.gauges.set("step", step)
        for name, value in metrics.items():
            if name.startswith("dropped/"):
                self.drop(name.removeprefix("dropped/"), int(value))
        self.steps_done = step
        self.progress.step(step, metrics)
        self._steps_here += 1
        if self._steps_here == self.config.balance_after_steps and step < self._total_steps:
            for line in self._balance():
                self.progress.note(line)
        if step in self.config.trace_steps:
            self._write_trace(step, learner_spans)

    def _balance(self) -> list[str]:
        """What bounds a step, by the steps that this process took."""
        rows = [row for row in read_metrics(self.run.metrics) if "seconds_per_step" in row]
        settings = self.config.model_dump(mode="json")
        settings.get("learner", {}).update(self._learner_size)
        return list(balance.lines(rows[-self._steps_here:] if self._steps_here else [], settings))

    def _note_workers(self, step: int) -> None:
        for change in self.sampler.take_changes():
            self.run.event("worker", time=change.time, step=step, worker=change.worker, before=change.before,
                           after=change.after, reason=change.reason)

    def _write_trace(self, step: int, learner_spans: Sequence[tuple[str, float, float]]) -> None:
        driver = list(self._spans)
        start, end = driver[0].start, driver[-1].end
        spans = [*driver, *(Span("learner", *span) for span in learner_spans), *actor_spans(start, end)]
        path = write_trace(self.run.path / f"trace-step-{step:06d}.json", spans)
        self.progress.note(f"trace of step {step}: {path} (open it in https://ui.perfetto.dev)")

    def consume(self, step: int, outcomes: Sequence[tuple[str, str]]) -> None:
        """Enter a step's questions, (group id, what came of it), into consumed.jsonl: each is there once, whatever happened."""
        append_line(self.run.consumed, to_json({"step": step, "groups": dict(outcomes)}))

    def lose(self, group_id: str, failure: Failure) -> None:
        """Keep why a group could not be sampled: every one as an event, the first of each reason on the terminal too."""
        self.run.event("group_lost", group=group_id, reason=failure.reason, message=failure.message)
        if failure.reason not in self._reasons_told:
            self._reasons_told.add(failure.reason)
            self.progress.note(f"group lost ({failure.reason}; more of it in events.jsonl): {failure.message}")

    def drop(self, reason: str, count: int = 1) -> None:
        """Count groups or samples that were lost, for the terminal and the report."""
        self.dropped[reason] += count
        self.progress.drop(reason, count)

    def questions(self, evaluation: heldout.EvaluationConfig, kinds: Sequence[str]) -> list[GroupPlan]:
        """Plans of the held-out questions; empty when the configuration names no held-out manifest."""
        if evaluation.manifest is None:
            return []
        held = self._load(evaluation.manifest, "evaluation.manifest")
        for rejection in held.rejected:
            self.dropped[f"heldout_{rejection.reason}"] += 1
        return heldout.plan_questions(evaluation, held.samples, kinds)

    def evaluate(self, questions: Sequence[GroupPlan], step: int) -> heldout.HeldOutAnswers | None:
        """Ask the held-out questions; logs the accuracies at `step`. What a resumed run asked before is read from disk."""
        if not questions:
            return None
        if step < self.steps_done:
            return self._earlier_answers(step)
        with self.phase("evaluate"):
            answers, lost = heldout.evaluate(self.sampler, questions, self.check_stop)
        heldout.save(answers, self.run.heldout, step)
        for reason, count in lost.items():
            self.drop(f"heldout_{reason}", count)
        figures = heldout.accuracies(answers)
        self.tracker.log(step, figures)
        self._host.settled()
        self.progress.note("held-out accuracy: " + ", ".join(f"{n.removeprefix('heldout/')} {v:.1%}"
                                                             for n, v in figures.items()))
        return answers

    def evaluation_due(self, evaluation: heldout.EvaluationConfig) -> bool:
        """Whether the held-out questions are to be asked in the middle of training, every `evaluation.every_steps`."""
        every = evaluation.every_steps
        return bool(every) and self.steps_done % every == 0 and self.steps_done < self._total_steps

    def _earlier_answers(self, step: int) -> heldout.HeldOutAnswers | None:
        try:
            return heldout.load(self.run.heldout, step)
        except DataError as error:
            self.progress.note(f"no held-out comparison: {error}")
            return None

    def finish(self, before: heldout.HeldOutAnswers | None, after: heldout.HeldOutAnswers | None) -> dict[str, Any]:
        """Write results.json and report.html, and print the result."""
        results: dict[str, Any] = {"seed": self.config.seed}
        if before is not None and after is not None:
            results = heldout.compare(before, after, self.config.seed)
        results["dropped"] = dict(self.dropped)
        page = self.write_results(results)
        if before is not None and after is not None:
            print_results(results, self.console)
        for line in self._balance():
            self.console.print(line, soft_wrap=True, highlight=False)
        self.console.print(f"report: {page}", soft_wrap=True)
        return results


def rollout_demands(engine: EngineActorsConfig, workers: WorkersConfig, engines: bool = True) -> list[Demand]:
    """What engines, corruption workers and reward workers reserve on the cluster; without `engines` nothing is asked."""
    corruption = Demand("corruption worker", workers.corruption_count, workers.corruption_cpus, 0.0)
    if not engines:
        return [corruption]
    return [Demand("engine", engine.count, engine.cpus, engine.gpus), corruption,
            Demand("reward worker", workers.reward_count, workers.reward_cpus, 0.0)]


def judge_demand(judge: JudgeConfig) -> Demand:
    """What a judge's own engines reserve on the cluster."""
    return Demand("judge engine", judge.engine.count, judge.engine.cpus, judge.engine.gpus)


def learner_demand(learner: LearnerConfig) -> Demand:
    """What the learner's Ray Train workers reserve on the cluster."""
    return Demand(LEARNER, learner.workers, learner.cpus, learner.gpus, least=learner.least_workers)
