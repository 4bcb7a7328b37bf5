"""Attack models on Ray workers: all of them, with all attacks, at all budgets, and on each other's examples.

Which images are attacked, with which seeds and in which chunks is fixed before; so the table is the same whatever the number
of workers, and whatever was interrupted. `attack_models` serves `squall attack image` and a trial of many models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from squall.actors.attack_pool import AttackWorkersConfig, Failed
from squall.actors.attack_tasks import Look, Show, Strike, Task
from squall.actors.query_ledger import QueryLedger, Total
from squall.jobs.attack_battery import Battery
from squall.jobs.attack_crew import Crew, Work
from squall.jobs.attack_diagnosis import DiagnosisConfig, Findings, diagnose
from squall.jobs.attack_examples import choose_examples, write_examples
from squall.jobs.attack_memory import AttackMemory, Case, Targets
from squall.jobs.attack_table import Record
from squall.jobs.console import counted
from squall.platform.runs import RunDirectory

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageModelConfig

LEDGER_FILE = "queries.sqlite"


@dataclass(frozen=True)
class AttackedModel:
    """A model under its name in the run, opened once to see what it is."""

    name: str
    path: str
    """As it was given."""
    config: ImageModelConfig
    """How a worker opens it, wherever that was started."""
    hash: str
    description: str = ""
    arm: str | None = None
    seed: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of `ModelResult` that do not follow from the table."""
        return {"name": self.name, "path": self.path, "hash": self.hash, "arm": self.arm, "seed": self.seed,
                "training": dict(self.training)}


@dataclass(frozen=True)
class AttackRun:
    """What came of it."""

    table: pa.Table
    """Rows as in `ATTACKS`."""
    models: tuple[dict[str, Any], ...]
    """Of each model what `build_attack_card` is told."""
    lost: tuple[str, ...]
    """What could not be done, a sentence each."""
    total: Total
    """Calls and passes of the ledger."""


@dataclass(frozen=True)
class Part:
    """Images of a case that are asked about together."""

    case: Case
    chunk: int
    rows: np.ndarray


def attack_models(models: Sequence[AttackedModel], targets: Targets, battery: Battery, workers: AttackWorkersConfig,
                  folder: RunDirectory, console: Console, *, diagnosis: DiagnosisConfig | None = None,
                  ray_address: str | None = None) -> AttackRun:
    """Ask what the folder's ledger does not know yet, and return all rows; examples and landscapes are files of the folder.

    Args:
        models: with different names. Two that are the same model are attacked once.

    Raises:
        SquallError: the cluster has no room, or the workers cannot start, hang or are gone for good.
        DataError: examples of an earlier run are gone.
    """
    ledger = QueryLedger(folder.path / LEDGER_FILE)
    with ExitStack() as stack:
        stack.callback(ledger.close)
        crew = Crew([model.config for model in models], targets.data, workers, folder, console, ray_address, stack)
        memory = AttackMemory(ledger, folder.path, targets)
        campaign = Campaign(models, targets, battery, memory, crew)
        campaign.look()
        campaign.strike()
        campaign.show()
        found = Findings({}, ())
        if diagnosis is not None:
            found = diagnose(models, targets, battery.budgets[0], diagnosis, campaign.record, ledger, crew)
        names = [(model.name, model.hash) for model in models]
        write_examples(folder.path, choose_examples(names, targets, battery, memory, campaign.record))
        table = campaign.record.table(names, tuple(battery.attacks))
        facts = [model.facts | found.facts(folder.path, model.name, model.hash) for model in models]
        return AttackRun(table, tuple(facts), (*campaign.lost(), *found.lost), ledger.total())


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
            Work(Part(Case(hash_), chunk, rows), len(rows), partial(Look, model, rows))
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

    def _strikes(self, case: Case) -> Iterator[Work[Part]]:
        attack = self._battery.attacks[case.attack]
        for chunk, rows in self._parts(case, self.record.right(case.model)):
            seeds = tuple(self._targets.seeds[row] for row in rows)
            task = Strike(self._numbers[case.model], rows, attack, case.threat, seeds)
            yield Work(Part(case, chunk, rows), len(rows) * self._battery.effort(case.attack), lambda task=task: task)

    def _shows(self, made: Case, target: str) -> Iterator[Work[Part]]:
        case = replace(made, model=target, source=made.model)
        for chunk, rows in self._parts(case, self.record.right(target) & self.record.of(made).known):
            yield Work(Part(case, chunk, rows), len(rows), partial(self._shown, made, target, chunk, rows))

    def _shown(self, made: Case, target: str, chunk: int, rows: np.ndarray) -> Task:
        found, examples = self._memory.examples(made, chunk)
        return Show(self._numbers[target], rows, examples[np.searchsorted(found, rows)])

    def _parts(self, case: Case, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if not case.together:
            yield from self._targets.parts(wanted)
        elif wanted.any():
            yield 0, np.flatnonzero(wanted)

    def _ask(self, what: str, work: Sequence[Work[Part]]) -> None:
        """Find out what is asked for: from the ledger, else from the workers, and enter it."""
        todo = []
        for one in work:
            known = self._memory.recall(one.key.case, one.key.rows)
            if known is None:
                todo.append(one)
            else:
                self.record.of(one.key.case).enter(one.key.rows, known)
        for part, outcome in self._crew.do(what, todo):
            if isinstance(outcome, Failed):
                lost = part.case, outcome.message
                self._lost[lost] = self._lost.get(lost, 0) + len(part.rows)
            else:
                self._memory.keep(part.case, part.chunk, part.rows, outcome.result, outcome.seconds)
                self.record.of(part.case).enter(part.rows, outcome.result)
