"""The workers of an attack run: started when there is something to do, told what became of them, stopped in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import ray
from rich.console import Console

from squall.actors.attack_pool import AttackPool, AttackWorkersConfig, Failed
from squall.actors.attack_tasks import Task
from squall.actors.attack_worker import Finished
from squall.actors.cluster import start_ray, stop_ray
from squall.actors.logs import messages_of_ray
from squall.actors.resources import ResourcePlan
from squall.jobs.console import counted, phase
from squall.platform.runs import RunDirectory, append_line
from squall.platform.work_progress import WorkProgress

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageModelConfig
    from squall.platform.image_data import ImageSet

Key = TypeVar("Key")


@dataclass(frozen=True)
class Work(Generic[Key]):
    """What one worker does at once."""

    key: Key
    weight: float
    """Passes that it takes, about."""
    make: Callable[[], Task]
    """The task; what it holds is read when a worker is free for it."""


class Crew:
    """Workers for some models and one set of images."""

    def __init__(self, models: Sequence[ImageModelConfig], data: ImageSet, config: AttackWorkersConfig, folder: RunDirectory,
                 console: Console, ray_address: str | None, stack: ExitStack) -> None:
        """What is started is stopped when `stack` is closed."""
        self._models, self._data, self._config, self._folder, self._console = models, data, config, folder, console
        self._ray_address, self._stack = ray_address, stack
        self._pool: AttackPool | None = None

    def do(self, what: str, todo: Sequence[Work[Key]]) -> Iterator[tuple[Key, Finished | Failed]]:
        """Do work on the workers; yields the key of each part with what came of it. `what` names the parts on the terminal."""
        if not todo:
            return
        self._pool = self._pool or self._start()
        with WorkProgress(what, len(todo), sum(work.weight for work in todo), console=self._console) as progress:
            try:
                for number, (work, outcome) in enumerate(self._pool.run((work, work.make()) for work in todo)):
                    yield work.key, outcome
                    self._tell(self._pool, progress)
                    progress.advance(number, work.weight, lost=isinstance(outcome, Failed))
            finally:
                self._tell(self._pool, progress)

    def _start(self) -> AttackPool:
        with nullcontext() if ray.is_initialized() else phase(self._console, "starting Ray", "ray", {}):
            cluster = start_ray(self._ray_address)
        self._stack.callback(stop_ray)
        self._stack.enter_context(messages_of_ray(lambda line: append_line(self._folder.logs / "ray.log", line)))
        ResourcePlan((self._config.demand,)).check(cluster)
        pool = AttackPool(self._config, self._models, self._data, f"attack-{time.time_ns()}", self._folder.logs)
        self._stack.callback(pool.stop)
        with phase(self._console, f"starting {counted(self._config.count, 'worker')}", "workers", {}):
            pool.start()
        for name, process in pool.processes.items():
            self._folder.event("worker", worker=name, process=process)
        return pool

    def _tell(self, pool: AttackPool, progress: WorkProgress) -> None:
        for change in pool.take_changes():
            self._folder.event("state", worker=change.worker, before=change.before, after=change.after, reason=change.reason)
        for reason, number in pool.retries.items():
            progress.note(f"tried again: {counted(number, 'chunk')}, {reason}")
            self._folder.event("retried", reason=reason, count=number)
        pool.retries.clear()
