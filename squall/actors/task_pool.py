"""Tasks on workers that are watched: each comes back once, tried again elsewhere when its worker dies.

Results come in the order in which they are done.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from squall.actors.health import WorkerState
from squall.actors.supervisor import Change, Supervisor, Worker
from squall.platform.errors import DataError, SquallError, cause

Key = TypeVar("Key")

ASK_BEFORE_S = 60.0
"""So long before its deadline the worker of a task is asked whether it lives."""


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
    task: Any
    attempt: int
    worker: Worker
    deadline: float
    asked: bool = False


class TaskPool(ABC):
    """Runs tasks on the workers of one role. Who derives from it starts them with `_watch`, and says how to `_send` a task."""

    role: ClassVar[str]
    late: ClassVar[str]
    """What to do where a task takes too long although its worker answers; ends the error."""
    unavailable: ClassVar[tuple[type[Exception], ...]] = ()
    """What a task raises where it is to be tried again, and its worker is not to blame."""

    def __init__(self, timeout_s: float, max_attempts: int, startup_timeout_s: float, logs: Path | None = None,
                 at_once: int = 1) -> None:
        """Nothing is started.

        Args:
            timeout_s: of one task. Before that its worker is asked whether it lives, and replaced if not.
            logs: the folder that gets what the workers print.
            at_once: tasks that a worker is given at the same time.
        """
        self._timeout_s, self._max_attempts, self._at_once = timeout_s, max_attempts, at_once
        self._supervisor = Supervisor(startup_timeout_s, logs=logs, timeout_key="workers.startup_timeout_s")
        self._waiting: deque[tuple[Any, Any, int]] = deque()
        self._flights: dict[Any, _Flight] = {}
        self.retries: Counter[str] = Counter()
        """Tasks tried again, by reason."""

    def run(self, tasks: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Any | Failed]]:
        """Run tasks, started in their order; yields the key of each once, as it is done.

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

    def _watch(self, actors: Iterable[Any]) -> None:
        """Take actors that are being started, and wait for them. Errors as of `Supervisor.add`."""
        self._supervisor.add(self.role, list(actors))

    @abstractmethod
    def _send(self, worker: Worker, task: Any) -> Any:
        """Give a worker a task; returns the reference to its result."""

    def _launch(self, source: Iterator[tuple[Any, Any]]) -> bool:
        """Give every free worker a task; returns whether none is left to give."""
        while (worker := self._free()) is not None:
            if self._waiting:
                key, task, attempt = self._waiting.popleft()
            elif (taken := next(source, None)) is not None:
                (key, task), attempt = taken, 0
            else:
                return True
            flight = _Flight(key, task, attempt, worker, time.monotonic() + self._timeout_s)
            self._flights[self._send(worker, task)] = flight
        return False

    def _free(self) -> Worker | None:
        """The healthy worker with the fewest tasks, if it may have another."""
        load = Counter(flight.worker.name for flight in self._flights.values())
        able = [worker for worker in self._supervisor.of(self.role)
                if worker.state is WorkerState.HEALTHY and load[worker.name] < self._at_once]
        return min(able, key=lambda worker: load[worker.name], default=None)

    def _settle(self, reference: Any) -> tuple[Any, Any | Failed] | None:
        """What became of a task, or None where it is to be tried again."""
        flight = self._flights.pop(reference)
        try:
            return flight.key, ray.get(reference)
        except RayError as error:
            root = error.cause if isinstance(error, RayTaskError) else error
            blameless = isinstance(root, self.unavailable)
            if isinstance(root, DataError):
                return flight.key, Failed(root.reason, str(root))
            if isinstance(root, SquallError) and not blameless:  # a setting that does not fit: every task would fail
                raise root from None
            if not isinstance(root, RayError) and not blameless:  # the worker lives and code failed: it would fail again
                return flight.key, Failed("task_error", cause(error))
            reason = "unavailable" if blameless else self._supervisor.accuse(root, [flight.worker])
            if flight.attempt + 1 == self._max_attempts:
                return flight.key, Failed("infrastructure", f"{flight.attempt + 1} attempts failed: {cause(root)}")
            self.retries[reason] += 1
            self._waiting.appendleft((flight.key, flight.task, flight.attempt + 1))
            return None

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for flight in self._flights.values():
            if now > flight.deadline and flight.worker.state is WorkerState.HEALTHY:
                raise SquallError(f"no result of a task after {self._timeout_s:.0f} s although {flight.worker.name} answers; "
                                  f"{self.late}")
            if not flight.asked and now > flight.deadline - min(ASK_BEFORE_S, self._timeout_s / 2):
                flight.asked = True
                self._supervisor.suspect(flight.worker, "a task takes long")
