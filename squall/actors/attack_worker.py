"""A process that holds models and runs tasks on them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from squall.actors.attack_tasks import Task
from squall.actors.cluster import enter_worker
from squall.actors.logs import keep_log

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageClassifier, ImageModelConfig
    from squall.platform.image_data import ImageSet

MODELS_HELD = 4
"""A trial has dozens, and a GPU does not hold all of them."""


@dataclass(frozen=True)
class Finished:
    """A task's result and how long it took."""

    result: Any
    seconds: float


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1}, allow_out_of_order_execution=True)
class AttackWorker:
    """Stateless but for the models that it has opened: a task gives the same, whichever worker runs it and how often.

    Ray restarts it and leaves a failed task to whoever asked.
    """

    def __init__(self, cpus: float, gpus: float, import_path: str, log: Path | None = None) -> None:
        """`import_path` is the folder that models of the user's own are imported from; `log` gets what the worker prints."""
        keep_log(log)
        enter_worker(import_path, max(1, int(cpus)))
        import torch  # now, so that what it takes is no part of the first task

        self._device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self._models: OrderedDict[str, ImageClassifier] = OrderedDict()

    def ready(self) -> int:
        """Returns the process id once the worker is up."""
        return os.getpid()

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Returns the process id, while a task is running too."""
        return os.getpid()

    def run(self, task: Task, model: ImageModelConfig, data: ImageSet) -> Finished:
        """Run a task on a model and the data that its rows are places in. Raises what the task raises."""
        started = time.monotonic()
        result = task.run(self._open(model), data, self._device)
        return Finished(result, time.monotonic() - started)

    def _open(self, config: ImageModelConfig) -> ImageClassifier:
        from squall.platform.image_classifiers import open_image_classifier

        key = config.model_dump_json()
        if key not in self._models:
            self._models[key] = open_image_classifier(config, self._device)
            if len(self._models) > MODELS_HELD:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]
