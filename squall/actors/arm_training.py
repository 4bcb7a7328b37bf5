"""Many classifiers trained at the same time, each in a Ray task of its own: the arms and seeds of a trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from pydantic import Field
from ray.exceptions import RayError, RayTaskError

from squall.algorithms.classifier_config import FitConfig
from squall.platform.config import Config
from squall.platform.errors import SquallError, cause
from squall.platform.image_data import ImageSet

MAX_ATTEMPTS = 3
"""How often a training is begun when its process dies."""


@dataclass(frozen=True)
class Training:
    """One classifier to be trained."""

    name: str
    config: FitConfig
    folder: Path
    """Checkpoint folder that it is written to."""


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    training: Training
    facts: dict[str, Any]
    """As `classifier_fit.describe` gives them; empty where it failed."""
    problem: str = ""
    """Why there is none, as a sentence; empty where there is."""
    attempts: int = 1


class TrainingTasksConfig(Config):
    """What every training reserves."""

    cpus: float = Field(1.0, gt=0)
    """CPUs, and torch threads, of one training."""
    gpus: float = Field(0.0, ge=0)
    """GPUs, such as 0.25 for four trainings on one."""


def train_all(trainings: Sequence[Training], data: ImageSet, tasks: TrainingTasksConfig) -> Iterator[Trained]:
    """Train all, as many at a time as the cluster holds; yields each as it is done.

    A training whose process died is begun anew; one that fails by itself, such as by a loss that is not finite, is not.
    """
    shared = ray.put(data)
    task = ray.remote(num_cpus=tasks.cpus, num_gpus=tasks.gpus, max_retries=0, scheduling_strategy="DEFAULT")(_train)

    def begin(training: Training) -> Any:
        return task.remote(training, shared, tasks.cpus)

    running = {begin(training): (training, 1) for training in trainings}
    while running:
        (reference,), _ = ray.wait(list(running), num_returns=1)
        training, attempt = running.pop(reference)
        try:
            yield Trained(training, ray.get(reference), attempts=attempt)
        except RayTaskError as error:
            root = error.cause
            yield Trained(training, {}, str(root) if isinstance(root, SquallError) else cause(error), attempt)
        except RayError as error:
            if attempt < MAX_ATTEMPTS:
                running[begin(training)] = training, attempt + 1
            else:
                yield Trained(training, {}, f"{attempt} attempts failed: {cause(error)}", attempt)


def _train(training: Training, data: ImageSet, cpus: float) -> dict[str, Any]:
    from squall.actors.cluster import set_threads
    from squall.algorithms.classifier_fit import fit_classifier
    from squall.platform.image_classifiers import save_image_classifier

    set_threads(cpus)
    fitted = fit_classifier(training.config, data)
    save_image_classifier(training.folder, fitted.module, training.config.network, data.classes, data.shape, fitted.mean,
                          fitted.std, fitted.training)
    return fitted.training
