"""Workers that look at images and attack them; the images travel through the object store once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pydantic import Field

from squall.actors.attack_tasks import Task
from squall.actors.attack_worker import AttackWorker
from squall.actors.cluster import namespace_for
from squall.actors.resources import Demand
from squall.actors.supervisor import Worker
from squall.actors.task_pool import Failed, TaskPool
from squall.platform.config import Config

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageModelConfig
    from squall.platform.image_data import ImageSet

__all__ = ["AttackPool", "AttackWorkersConfig", "Failed"]

ROLE = "attack"


class AttackWorkersConfig(Config):
    """Processes that attack images."""

    count: int = Field(1, ge=1)
    """Workers; each holds the models that it attacks."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each, and torch threads that each runs."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each, such as 1, or 0.25 for four workers on one; 0 attacks on the CPU."""
    startup_timeout_s: float = Field(300.0, gt=0)
    """How long workers may take to start."""
    chunk_timeout_s: float = Field(3600.0, gt=0)
    """How long one attack on one chunk may take. Before that its worker is asked whether it lives, and replaced if not; past
    it the run stops."""
    max_attempts: int = Field(3, ge=1)
    """How often a chunk is tried when workers die, before it is given up, counted and reported."""

    @property
    def demand(self) -> Demand:
        """What the workers reserve on the cluster."""
        return Demand(ROLE, self.count, self.cpus, self.gpus)


class AttackPool(TaskPool):
    """Runs tasks about some models and one set of images."""

    role = ROLE
    late = "make chunk smaller, or raise workers.chunk_timeout_s"

    def __init__(self, config: AttackWorkersConfig, models: Sequence[ImageModelConfig], data: ImageSet, run_id: str,
                 logs: Path | None = None) -> None:
        """`logs` is the folder that gets what the workers print."""
        super().__init__(config.chunk_timeout_s, config.max_attempts, config.startup_timeout_s, logs)
        self._config, self._models, self._data, self._run_id, self._logs = config, tuple(models), data, run_id, logs
        self._shared: Any = None

    def start(self) -> None:
        """Start all workers and wait for them.

        Raises:
            SquallError: one could not start, or not in time.
        """
        self._shared = ray.put(self._data)
        namespace = namespace_for(self._run_id)
        self._watch(
            AttackWorker.options(name=f"{ROLE}-{number}", namespace=namespace, num_cpus=self._config.cpus,
                                 num_gpus=self._config.gpus, scheduling_strategy="DEFAULT").remote(
                self._config.cpus, self._config.gpus, str(Path.cwd()), self._logs and self._logs / f"{ROLE}-{number}.log")
            for number in range(self._config.count))

    def _send(self, worker: Worker, task: Task) -> Any:
        return worker.actor.run.remote(task, self._models[task.model], self._shared)
