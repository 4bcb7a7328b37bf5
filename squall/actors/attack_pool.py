"""Workers that look at images and attack them: one task each at a time, tried again elsewhere when a worker dies.

The images travel through the object store once. Results come back in the order in which they are done.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from pydantic import Field
from ray.exceptions import RayError, RayTaskError

from squall.actors.attack_tasks import Task
from squall.actors.attack_worker import AttackWorker, Finished
from squall.actors.cluster import Demand, namespace_for
from squall.actors.health import WorkerState
from squall.actors.supervisor import Change, Supervisor, Worker
from squall.platform.config import Config
from squall.platform.errors import DataError, SquallError, cause

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageModelConfig
    from squall.platform.image_data import ImageSet

Key = TypeVar("Key")

ROLE = "attack"
ASK_BEFORE_S = 60.0
"""So long before its deadline the worker of a task is asked whether it lives."""


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


@dataclass(frozen=True)
class Failed:
    """Why a task has no result."""

    reason: str
    """Short snake_case word under which it is counted."""
    message: str


@dataclass(slots=True)
class _Flight:
    """A task on a worker."""

    key: Any
    task: Task
    attempt: int
    worker: Worker
    deadline: float
    asked: bool = False


class AttackPool:
    """Runs tasks about some models and one set of images."""

    def __init__(self, config: AttackWorkersConfig, models: Sequence[ImageModelConfig], data: ImageSet, run_id: str,
                 logs: Path | None = None) -> None:
        """`logs` is the folder that gets what the workers print."""
        self._config, self._models, self._data, self._run_id, self._logs = config, tuple(models), data, run_id, logs
        self._supervisor = Supervisor(config.startup_timeout_s, logs=logs, timeout_key="workers.startup_timeout_s")
        self._shared: Any = None
        self._waiting: deque[tuple[Any, Task, int]] = deque()
        self._flights: dict[Any, _Flight] = {}
        self.retries: Counter[str] = Counter()
        """Tasks tried again, by reason."""

    def start(self) -> None:
        """Start all workers and wait for them.

        Raises:
            SquallError: one could not start, or not in time.
        """
        self._shared = ray.put(self._data)
        namespace = namespace_for(self._run_id)
        self._supervisor.add(ROLE, [
            AttackWorker.options(name=f"{ROLE}-{number}", namespace=namespace, num_cpus=self._config.cpus,
                                 num_gpus=self._config.gpus, scheduling_strategy="DEFAULT").remote(
                self._config.cpus, self._config.gpus, str(Path.cwd()), self._logs and self._logs / f"{ROLE}-{number}.log")
            for number in range(self._config.count)])

    def run(self, tasks: Iterable[tuple[Key, Task]]) -> Iterator[tuple[Key, Finished | Failed]]:
        """Run tasks, started in their order and one a worker at a time; yields the key of each once, as it is done.

        A task is taken from `tasks` when a worker is free for it.

        Raises:
            SquallError: a task is stuck although its worker lives, or the last worker is gone for good.
        """
        source = iter(tasks)
        while True:
            self._supervisor.tick()
            over = self._launch(source)
            if over and not self._flights and not self._waiting:
                return
            done, _ = ray.wait(list(self._flights), num_returns=1, timeout=0.5) if self._flights else ([], [])
            settled = [self._settle(reference) for reference in done]
            self._launch(source)  # before anybody spends time on what came in
            yield from (pair for pair in settled if pair is not None)
            self._check_deadlines()
            if not self._flights:
                time.sleep(0.02)

    @property
    def processes(self) -> dict[str, int]:
        """Process ids of the workers, by name."""
        return {worker.name: worker.process for worker in self._supervisor.workers}

    def take_changes(self) -> list[Change]:
        """Workers that died, restarted or were given up since this was last asked."""
        changes = list(self._supervisor.changes)
        self._supervisor.changes.clear()
        return changes

    def stop(self) -> None:
        """End all workers."""
        for worker in self._supervisor.workers:
            ray.kill(worker.actor)

    def _launch(self, source: Iterator[tuple[Any, Task]]) -> bool:
        """Give every free worker a task; returns whether none is left to give."""
        busy = {flight.worker.name for flight in self._flights.values()}
        for worker in self._supervisor.of(ROLE):
            if worker.state is not WorkerState.HEALTHY or worker.name in busy:
                continue
            if self._waiting:
                key, task, attempt = self._waiting.popleft()
            elif (taken := next(source, None)) is not None:
                (key, task), attempt = taken, 0
            else:
                return True
            reference = worker.actor.run.remote(task, self._models[task.model], self._shared)
            self._flights[reference] = _Flight(key, task, attempt, worker, time.monotonic() + self._config.chunk_timeout_s)
        return False

    def _settle(self, reference: Any) -> tuple[Any, Finished | Failed] | None:
        """What became of a task, or None where it is to be tried again."""
        flight = self._flights.pop(reference)
        try:
            return flight.key, ray.get(reference)
        except RayError as error:
            root = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(root, DataError):
                return flight.key, Failed(root.reason, str(root))
            if isinstance(root, SquallError):  # a setting that does not fit: every task would fail
                raise root from None
            if not isinstance(root, RayError):  # the worker lives and code failed: it would fail again
                return flight.key, Failed("task_error", cause(error))
            reason = self._supervisor.accuse(root, [flight.worker])
            if flight.attempt + 1 == self._config.max_attempts:
                return flight.key, Failed("infrastructure", f"{flight.attempt + 1} attempts failed: {cause(root)}")
            self.retries[reason] += 1
            self._waiting.appendleft((flight.key, flight.task, flight.attempt + 1))
            return None

    def _check_deadlines(self) -> None:
        now, limit = time.monotonic(), self._config.chunk_timeout_s
        for flight in self._flights.values():
            if now > flight.deadline and flight.worker.state is WorkerState.HEALTHY:
                raise SquallError(f"no result of a chunk after {limit:.0f} s although {flight.worker.name} answers; make chunk "
                                  "smaller, or raise workers.chunk_timeout_s")
            if not flight.asked and now > flight.deadline - min(ASK_BEFORE_S, limit / 2):
                flight.asked = True
                self._supervisor.suspect(flight.worker, "a chunk takes long")
