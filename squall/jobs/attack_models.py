"""Attack models on Ray workers: all of them, with all attacks, at all budgets, and on each other's examples.

Which images are attacked, with which seeds and in which chunks is fixed before; so the table is the same whatever the number
of workers, and whatever was interrupted. `attack_models` serves `squall attack image` and a trial of many models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from squall.actors.attack_pool import AttackPool, AttackWorkersConfig, Failed
from squall.actors.attack_tasks import Look, Show, Strike, Task
from squall.actors.cluster import ResourcePlan, start_ray, stop_ray
from squall.actors.logs import messages_of_ray
from squall.actors.query_ledger import QueryLedger, Total
from squall.jobs.attack_battery import Battery
from squall.jobs.attack_memory import AttackMemory, Case, Targets
from squall.jobs.attack_table import Record
from squall.jobs.console import counted, phase
from squall.platform.runs import RunDirectory, append_line
from squall.platform.work_progress import WorkProgress

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageModelConfig

LEDGER_FILE = "queries.sqlite"


@dataclass(frozen=True)
class AttackedModel:
    """A model under its name in the run, opened once to see what it is."""

    name: str
    config: ImageModelConfig
    hash: str
    description: str = ""
    arm: str | None = None
    seed: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of `ModelResult` that do not follow from the table."""
        return {"name": self.name, "path": self.config.path, "hash": self.hash, "arm": self.arm, "seed": self.seed,
                "training": dict(self.training)}


@dataclass(frozen=True)
class AttackRun:
    """What came of it."""

    table: pa.Table
    """Rows as in `ATTACKS`."""
    lost: tuple[str, ...]
    """What could not be done, a sentence each."""
    total: Total
    """Of the ledger."""


@dataclass(frozen=True)
class Work:
    """A part of a case that one worker does at once."""

    case: Case
    chunk: int
    rows: np.ndarray
    weight: float
    """Passes that it takes about."""
    make: Callable[[], Task]
    """The task; what it holds is read when a worker is free for it."""


def attack_models(models: Sequence[AttackedModel], targets: Targets, battery: Battery, workers: AttackWorkersConfig,
                  folder: RunDirectory, console: Console, ray_address: str | None = None) -> AttackRun:
    """Ask what the folder's ledger does not know yet, and return all rows.

    Args:
        models: with different names. Two that are the same model are attacked once.

    Raises:
        SquallError: the cluster has no room, or the workers cannot start, hang or are gone for good.
    """
    ledger = QueryLedger(folder.path / LEDGER_FILE)
    with ExitStack() as stack:
        stack.callback(ledger.close)
        crew = Crew(models, targets, workers, folder, console, ray_address, stack)
        campaign = Campaign(models, targets, battery, AttackMemory(ledger, folder.path, targets), crew)
        campaign.look()
        campaign.strike()
        campaign.show()
        table = campaign.record.table([(model.name, model.hash) for model in models], tuple(battery.attacks))
        return AttackRun(table, campaign.lost(), ledger.total())


class Crew:
    """The workers of a run, started when there is something to do for them."""

    def __init__(self, models: Sequence[AttackedModel], targets: Targets, config: AttackWorkersConfig, folder: RunDirectory,
                 console: Console, ray_address: str | None, stack: ExitStack) -> None:
        self.console = console
        self._models, self._targets, self._config, self._folder = models, targets, config, folder
        self._ray_address, self._stack = ray_address, stack
        self._pool: AttackPool | None = None

    def do(self, what: str, todo: Sequence[Work]) -> Iterator[tuple[Work, Any]]:
        """Do work on the workers; yields each part with what came of it. `what` names the parts on the terminal."""
        if not todo:
            return
        pool = self._pool = self._pool or self._start()
        with WorkProgress(what, len(todo), sum(work.weight for work in todo), console=self.console) as progress:
            for number, (work, outcome) in enumerate(pool.run((work, work.make()) for work in todo)):
                yield work, outcome
                progress.advance(number, work.weight, lost=isinstance(outcome, Failed))
            self._tell(pool, progress)

    def _start(self) -> AttackPool:
        with phase(self.console, "starting Ray", "ray", {}):
            cluster = start_ray(self._ray_address)
        self._stack.callback(stop_ray)
        self._stack.enter_context(messages_of_ray(lambda line: append_line(self._folder.logs / "ray.log", line)))
        ResourcePlan((self._config.demand,)).check(cluster)
        pool = AttackPool(self._config, [model.config for model in self._models], self._targets.data,
                          f"attack-{time.time_ns()}", self._folder.logs)
        self._stack.callback(pool.stop)
        with phase(self.console, f"starting {counted(self._config.count, 'worker')}", "workers", {}):
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


class Campaign:
    """Looks at all images, attacks those that are right, and shows examples to the other models."""

    def __init__(self, models: Sequence[AttackedModel], targets: Targets, battery: Battery, memory: AttackMemory,
                 crew: Crew) -> None:
        self._targets, self._battery, self._memory, self._crew = targets, battery, memory, crew
        self._numbers: dict[str, int] = {}
        self._names: dict[str, str] = {}
        for number, model in enumerate(models):
            self._numbers.setdefault(model.hash, number)
            self._names.setdefault(model.hash, model.name)
        self.record = Record(targets)
        self._lost: dict[tuple[Case, str], int] = {}

    def look(self) -> None:
        """Ask every model about every image as it is."""
        self._ask("chunks looked at", [
            Work(Case(hash_), chunk, rows, len(rows), lambda rows=rows, model=model: Look(model, rows))
            for hash_, model in self._numbers.items() for chunk, rows in enumerate(self._targets.chunks)])

    def strike(self) -> None:
        """Attack what is right; what takes longest comes first."""
        work = [work for hash_ in self._numbers for case in self._cases(hash_) for work in self._strikes(case)]
        self._ask("chunks attacked", sorted(work, key=lambda one: -one.weight))

    def show(self) -> None:
        """Show every model's examples to the others, where both are right about the image as it is."""
        cases = [case for hash_ in self._numbers for case in self._cases(hash_) if case.attack in self._battery.transfers]
        self._ask("chunks transferred", [work for case in cases for target in self._numbers if target != case.model
                                         for work in self._shows(case, target)])

    def lost(self) -> tuple[str, ...]:
        """A sentence for everything that could not be done."""
        return tuple(f"{self._names[case.model]}, {case.title}: {counted(count, 'image')} lost: {message}"
                     for (case, message), count in self._lost.items())

    def _cases(self, hash_: str) -> Iterator[Case]:
        for name, threat in self._battery.strikes:
            attack = self._battery.attacks[name]
            yield Case(hash_, name, self._battery.settings(name), threat, together=attack.indivisible)

    def _strikes(self, case: Case) -> Iterator[Work]:
        right = self.record.right(case.model)
        attack = self._battery.attacks[case.attack]
        parts = [(0, np.flatnonzero(right))] if case.together and right.any() else self._targets.parts(right)
        for chunk, rows in parts:
            def make(rows: np.ndarray = rows) -> Task:
                seeds = [self._targets.seeds[row] for row in rows]
                return Strike(self._numbers[case.model], rows, attack, case.threat, seeds)

            yield Work(case, chunk, rows, len(rows) * self._battery.effort(case.attack), make)

    def _shows(self, made: Case, target: str) -> Iterator[Work]:
        case = Case(target, made.attack, made.settings, made.threat, made.model, made.together)
        right = self.record.right(target) & self.record.of(made).known
        parts = [(0, np.flatnonzero(right))] if case.together and right.any() else self._targets.parts(right)
        for chunk, rows in parts:
            def make(chunk: int = chunk, rows: np.ndarray = rows) -> Task:
                found, examples = self._memory.examples(made, chunk)
                return Show(self._numbers[target], rows, examples[np.searchsorted(found, rows)])

            yield Work(case, chunk, rows, len(rows), make)

    def _ask(self, what: str, work: Sequence[Work]) -> None:
        """Find out what is asked for: from the ledger, else from the workers, and enter it."""
        todo = []
        for one in work:
            known = self._memory.recall(one.case, one.rows)
            if known is None:
                todo.append(one)
            else:
                self.record.of(one.case).enter(one.rows, known)
        for one, outcome in self._crew.do(what, todo):
            if isinstance(outcome, Failed):
                key = one.case, outcome.message
                self._lost[key] = self._lost.get(key, 0) + len(one.rows)
            else:
                self._memory.keep(one.case, one.chunk, one.rows, outcome.result, outcome.seconds)
                self.record.of(one.case).enter(one.rows, outcome.result)
