"""`squall train classifier`: an image or clip classifier by supervised learning or REINFORCE, plain or on attacked images.

Every method gets the same optimiser, batches and model selection, and a budget that can be given in passes, so that two runs
differ in the method alone. The run directory ends with ``model/``, which `squall attack image` opens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from squall.actors.classifier_loop import ClassifierLearner, ClassifierWorkersConfig, SteppedLearner
from squall.actors.placement import LEARNER
from squall.actors.resources import Demand
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_fit import method_name
from squall.algorithms.classifier_training import check_images
from squall.jobs.console import say
from squall.jobs.run_session import RunSession, RunSessionConfig
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images, split_validation
from squall.platform.networks import build_network
from squall.platform.runs import filling, from_here

if TYPE_CHECKING:
    import torch

CHECK_S = 1.0
"""About how long the workers train before the driver looks whether it is to stop."""
MODEL = "model"


class TrainClassifierConfig(FitConfig, RunSessionConfig):
    """Everything of a run."""

    data: ImageDataConfig = ImageDataConfig()
    """Images and labels."""
    learner: ClassifierWorkersConfig = ClassifierWorkersConfig()
    """Ray Train workers."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainClassifierConfig:
        if self.batch_size < self.learner.workers:
            raise ValueError(f"batch_size {self.batch_size} does not go round learner.workers {self.learner.workers}")
        if self.device == "cuda" and not self.learner.gpus:
            raise ValueError("device cuda needs learner.gpus, such as 1")
        return self


def run(config: TrainClassifierConfig) -> int:
    """Train, look at the test images once, write the run directory."""
    train(config)
    return 0


def train(config: TrainClassifierConfig) -> Path:
    """As `run`; returns the folder of the classifier."""
    images, test = load_images(config.data, "train"), load_images(config.data, "test")
    check_images(images)
    check_images(test)
    count = len(split_validation(images, config.validation.fraction, config.validation.split_seed)[0])
    lines = plan(config, images, count)
    validations = config.validation_steps(count)
    with RunSession(config, "train classifier", validations[-1]) as session:
        note_dropped(session, images, test)
        session.start(demands(config), lines)
        learner = start_learner(session, config, images, test)
        with session.stops_well(learner, dict):
            pace = Pace()
            with session.progress.phase("train"):
                for step in stops(config, validations, session.steps_done):
                    advance(session, learner, step, pace)
                    validate(session, learner, seen=step in validations)
                    session.save_if_due(learner, {})
            finish(session, learner)
    return session.run.path / MODEL


def demands(config: TrainClassifierConfig) -> list[Demand]:
    """What a run reserves on the cluster."""
    learner = config.learner
    return [Demand(LEARNER, learner.workers, learner.cpus, learner.gpus)]


def steps(config: TrainClassifierConfig) -> int:
    """How many steps a run takes; for that its training images are looked at."""
    images = load_images(config.data, "train")
    return config.total_steps(len(split_validation(images, config.validation.fraction, config.validation.split_seed)[0]))


def plan(config: TrainClassifierConfig, images: ImageSet, count: int) -> list[str]:
    """The sizes that follow from the configuration, shown before any worker starts; `count` images are trained on.

    Raises:
        ConfigError: the network does not take such images.
    """
    network = build_network(config.network, images.shape, len(images.classes), *images.statistics())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"{method_name(config)} on {images.source}: {count:,} images to train on and {len(images) - count:,} for "
             f"validation, {'x'.join(map(str, images.shape))}, {len(images.classes)} classes",
             f"{config.network.architecture} with {parameters:,} parameters",
             f"{config.total_steps(count):,} steps of {config.batch_size} images on {config.learner.workers} worker(s): "
             f"{config.planned_passes(count):.1f} forward and backward passes of each image"]
    if config.learner.workers > 1 and (layers := layers_of_a_part(network)):
        lines.append(f"{' and '.join(layers)} layers see one worker's part of a batch alone, so figures depend on "
                     "learner.workers")
    return lines


def layers_of_a_part(network: torch.nn.Module) -> list[str]:
    """Kinds of layer by which figures depend on how a batch is divided."""
    from torch import nn

    dropout = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in network.modules())
    batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return ["dropout"] * dropout + ["batch normalisation"] * batch_norm


def stops(config: TrainClassifierConfig, validations: Sequence[int], done: int) -> list[int]:
    """Steps after the first `done` ones at which there is something to do beside training."""
    every = config.checkpoint_every_steps
    found = {*validations, *(range(every, validations[-1], every) if every else ())}
    return sorted(step for step in found if step > done)


@dataclass
class Pace:
    """How many steps to ask for at once, so that an interrupt is heard within about `CHECK_S`."""

    steps: int = 1

    def took(self, seconds: float) -> None:
        """That many steps took so long."""
        self.steps = max(1, min(4 * self.steps, int(self.steps * CHECK_S / max(seconds, 1e-6))))


def start_learner(session: RunSession, config: TrainClassifierConfig, images: ImageSet, test: ImageSet) -> ClassifierLearner:
    """Start the workers, which go on from a checkpoint where there is one."""
    with session.phase("learner"):
        learner = ClassifierLearner(config.learner, config, images, test, session.run.path, resume=session.resumed.checkpoint)
        session.callback(learner.stop)
        facts = learner.start(session.placement.give_back(LEARNER))
    session.progress.note(f"training on {facts['device']}")
    return learner


def advance(session: RunSession, learner: SteppedLearner, until: int, pace: Pace) -> None:
    """Train up to a step, a second at a time."""
    session.progress.begin_step()
    while session.steps_done < until:
        session.check_stop()
        target, started = min(until, session.steps_done + pace.steps), time.monotonic()
        with session.phase("learn"):
            learner.advance(target)
        pace.took((time.monotonic() - started) * pace.steps / (target - session.steps_done))
        session.steps_done = target
        if target < until:
            session.progress.step(target, {})


def validate(session: RunSession, learner: SteppedLearner, seen: bool) -> None:
    """End what `advance` did; where validation images are looked at, with the figures since they were last."""
    row: dict[str, float] = {}
    if seen:
        with session.phase("validate"):
            row = learner.validate()
        session.tracker.log(session.steps_done, row)
        session.gauges.set("step", session.steps_done)
    session.progress.step(session.steps_done, row)


def finish(session: RunSession, learner: ClassifierLearner) -> None:
    """Write the weights that model selection keeps, results and report."""
    folder = session.run.path / MODEL
    with session.phase("test"), filling(folder) as unfinished:
        facts = learner.keep(unfinished)
    page = session.write_results(results_of(facts))
    say(session.console, f"{facts['objective']}: {facts['test_accuracy']:.1%} of {facts['test_images']:,} test images, "
                         f"validation {facts['validation']:.1%}, {facts['passes']:.1f} passes in {facts['seconds']:.1f} s")
    say(session.console, f"classifier: {from_here(folder)}\nreport: {page}")


def results_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """results.json of a run: accuracies as fractions, and what they cost."""
    accuracy = {"test": facts["test_accuracy"], "validation": facts["validation"],
                "validation under attack": facts["validation_attacked"]}
    names = ("seed", "objective", "steps", "passes", "selected_step", "images", "test_images")
    return {**{name: facts[name] for name in names}, "train_seconds": facts["seconds"],
            "accuracy": {name: value for name, value in accuracy.items() if value is not None}}


def note_dropped(session: RunSession, *parts: ImageSet) -> None:
    """Record images that could not be read: every one as an event, their number on the terminal."""
    lines = [line for part in parts for line in part.dropped]
    for line in lines:
        session.run.event("image_dropped", message=line)
    if lines:
        session.progress.note(f"{len(lines)} images cannot be used; the first: {lines[0]}")


def report_section(config: TrainClassifierConfig) -> list[str]:
    """What a reader of the report must know."""
    notes = [f"Trained by {method_name(config)}, seed {config.seed}; test images were looked at once, after model selection on "
             "validation images."]
    if config.objective.kind in ("pg", "mae", "pg_expected") or config.adversarial.kind != "none":
        notes.append("Accuracy on images as they are says nothing of robustness, and PGD alone little: `squall attack image`.")
    if config.adversarial.kind == "pgd":
        notes.append("Accuracy while training is that on attacked images.")
    return notes
