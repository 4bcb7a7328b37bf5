"""What a Ray Train worker runs to train a classifier, and the driver's handle on the group.

The arithmetic is `squall.algorithms.classifier_training`, the same as in one process without Ray; here it gets its share of
every batch, adds up gradients over the workers, and obeys the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pydantic import Field

from squall.actors.rollout_buffer import Save
from squall.actors.run_files import RunFiles
from squall.actors.worker_group import WorkerGroup
from squall.algorithms.classifier_config import FitConfig
from squall.platform.config import Config
from squall.platform.image_data import ImageSet

if TYPE_CHECKING:
    import torch

    from squall.algorithms.classifier_training import ClassifierTraining


class ClassifierWorkersConfig(Config):
    """How the training is laid out on the cluster."""

    workers: int = Field(1, ge=1)
    """Ray Train workers; each takes its part of every batch, whose size stays the same."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; by default its CPUs, at least 1."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each worker."""
    start_timeout_s: float = Field(300.0, gt=0)
    """How long the workers may take to build the network."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """How long some steps, a validation or a checkpoint may take before the run stops with an error."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Train up to a number of steps."""

    until: int


@dataclass(frozen=True, slots=True)
class Validate:
    """Close the interval since the last validation: its figures, and those of the validation images."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Take the weights that model selection keeps, write them as a checkpoint folder, and look at the test images."""

    directory: str


class SteppedLearner(WorkerGroup):
    """Driver's handle on a group that trains by steps. `start`; then `advance`, `validate`, `save`; `keep` at the end; then
    `stop`."""

    def advance(self, until: int) -> None:
        """Train up to `until` steps."""
        self.ask(Advance(until), f"training up to step {until}")

    def validate(self) -> dict[str, float]:
        """Figures since the last validation, and of what is set aside for validation."""
        return self.ask(Validate(), "validating")

    def keep(self, directory: Path) -> dict[str, Any]:
        """Write the weights that are kept into a folder and look at the test split; returns what is known of both."""
        return self.ask(Keep(str(directory)), f"testing, and writing {directory}")


class ClassifierLearner(SteppedLearner):
    """A classifier's."""

    def __init__(self, workers: ClassifierWorkersConfig, config: FitConfig, train: ImageSet, test: ImageSet, run_path: Path, *,
                 resume: Path | None = None) -> None:
        """`resume` is a checkpoint of a run to go on from."""
        images = ray.put({"train": train, "test": test})
        super().__init__(workers, classifier_loop, {"workers": workers, "config": config, "images": images, "resume": resume},
                         run_path)


def classifier_loop(config: dict[str, Any]) -> None:
    """Run by every Ray Train worker."""
    follow(config, ClassifierWorker)


def follow(config: dict[str, Any], make: Callable[[Mapping[str, Any], int, int], Any]) -> None:
    """Make a worker of (config, rank, workers); take a command, let it do this rank's share, report, repeat.

    What ``facts`` of rank 0 returns is reported first, then what its ``obey`` returns of each command.
    """
    from ray import train

    from squall.actors.cluster import set_threads
    from squall.actors.logs import keep_log

    rank, workers = train.get_context().get_world_rank(), train.get_context().get_world_size()
    settings: ClassifierWorkersConfig = config["workers"]
    keep_log(config["logs"] / f"learner-{rank}.log")
    set_threads(settings.threads or settings.cpus)
    if settings.gpus:  # all workers of a node see all of its GPUs
        from ray.train.torch import get_device
        from torch.cuda import set_device

        set_device(get_device())
    worker = make(config, rank, workers)
    buffer, index = config["buffer"], 0
    ray.get(buffer.arrive.remote(ray.get_runtime_context().get_node_id()))
    if rank == 0:
        ray.get(buffer.report.remote(-1, worker.facts()))
    while (command := ray.get(buffer.take.remote(index))) is not None:
        result = worker.obey(command)
        if rank == 0:
            ray.get(buffer.report.remote(index, result))
        index += 1


class ClassifierWorker:
    """One rank of the group."""

    def __init__(self, config: Mapping[str, Any], rank: int, workers: int) -> None:
        from squall.algorithms.classifier_training import ClassifierTraining, Share

        images = ray.get(config["images"])
        self.rank, self.test = rank, images["test"]
        self.training = ClassifierTraining(config["config"], images["train"], Share(rank, workers, sum_over_workers))
        self.files: RunFiles = config["files"]
        if config["resume"] is not None:
            with self.files.reading(config["resume"]) as checkpoint:
                restore_checkpoint(self.training, checkpoint)

    def facts(self) -> dict[str, Any]:
        """What the driver shows of the training before it begins."""
        return {"step": self.training.step, "device": str(self.training.device)}

    def obey(self, command: Advance | Validate | Save | Keep) -> dict[str, Any]:
        """Carry out a command; what rank 0 returns goes to the driver."""
        training = self.training
        if isinstance(command, Advance):
            training.advance(command.until)
            return {}
        if isinstance(command, Validate):
            return {**training.row(), **training.validate()}
        if isinstance(command, Save):
            return self._save(Path(command.directory))
        return self._keep(Path(command.directory))

    def _save(self, folder: Path) -> dict[str, Any]:
        if self.rank == 0:
            with self.files.writing(folder) as written:
                write_checkpoint(self.training, written)
        return {}

    def _keep(self, folder: Path) -> dict[str, Any]:
        """The test images are looked at once, after model selection."""
        from squall.algorithms.classifier_fit import describe

        self.training.finish()
        facts = describe(self.training)
        if self.rank == 0:
            with self.files.writing(folder) as written:
                save_model(self.training, written, facts)
        return {**facts, "test_accuracy": self.training.accuracy(self.test), "test_images": len(self.test)}


def sum_over_workers(values: torch.Tensor) -> None:
    """Add up a tensor over all Ray Train workers, in place."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.all_reduce(values)


def write_checkpoint(training: ClassifierTraining, folder: Path) -> None:
    """Write a classifier's folder, which opens anywhere, and under ``trainer`` what it takes to go on."""
    from squall.algorithms.classifier_fit import describe, snapshot
    from squall.platform.checkpoints import TRAINER, write_tensors

    save_model(training, folder, describe(training))
    tensors, numbers = snapshot(training)
    write_tensors(folder / TRAINER, ((name, value.detach().cpu()) for name, value in tensors.items()), numbers)


def save_model(training: ClassifierTraining, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the network as it is now as a checkpoint folder."""
    from squall.platform.image_classifiers import save_image_classifier

    data = training.images
    save_image_classifier(folder, training.module, training.config.network, data.classes, data.shape, training.mean,
                          training.std, facts)


def restore_checkpoint(training: ClassifierTraining, checkpoint: Path) -> None:
    """Go on from a checkpoint. Raises SquallError when it is another network's."""
    from squall.algorithms.classifier_fit import restore
    from squall.platform.checkpoints import TRAINER, StoredTensors

    stored = StoredTensors(checkpoint / TRAINER)
    restore(training, stored, stored.metadata)
