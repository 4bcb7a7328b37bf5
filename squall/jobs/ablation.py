"""Rows of an ablation: named configurations with their seeds, run alike by `squall tune` and set side by side in one table.

Intervals are 95 % bootstrap intervals over videos of what the seeds reach on average; how far seeds lie apart is
shown beside them. A row of one seed is marked: it shows that the configuration runs, and claims nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.algorithms.statistics import Interval, paired_bootstrap
from squall.jobs import heldout
from squall.jobs.registry import Job
from squall.platform.config import Config, lay_over, read_yaml, validate, with_base
from squall.platform.errors import ConfigError, SquallError
from squall.platform.records import Branch
from squall.platform.runs import RunDirectory, from_here, write_text
from squall.platform.store import RolloutStore
from squall.platform.tracking import read_metrics

ROW = "row"
"""Key under which a trial knows its row and seed."""
TRAINING = ("rollout", "sleep", "learn", "sync", "record")
"""Phases that are training: neither starting nor asking held-out questions."""
HEAD = ("row", "seeds", "corrupted, %", "gain, points", "clean gain, points", "against the first", "seconds",
        "pairs judged", "judge calls", "")


class Row(Config):
    """One configuration of an ablation."""

    config: str
    """Its file, such as @rova; what the ablation's own file says lies over it."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds that it is run with; from three on the table claims something."""


def entries(rows: Mapping[str, Row]) -> dict[str, tuple[str, int]]:
    """Row and seed of every trial, by its label such as ``ROVA, seed 0``."""
    return {f"{name}, seed {seed}": (name, seed) for name, row in rows.items() for seed in row.seeds}


def row_values(rows: Mapping[str, Row], label: str, own: Mapping[str, Any], job: str) -> dict[str, Any]:
    """What a trial says to its job: the row's file, the ablation's own keys over it, and the seed."""
    name, seed = entries(rows)[label]
    values = with_base(read_yaml(rows[name].config), rows[name].config)
    if (named := values.pop("job", job)) != job:
        raise ConfigError(f"rows: {name}: {rows[name].config} is a configuration of 'squall {named}', not of 'squall {job}'")
    return {**lay_over(values, own), "seed": seed}


@dataclass(frozen=True)
class Measured:
    """Runs of one row that have finished, by seed."""

    name: str
    wanted: int
    runs: Mapping[int, Path]
    cpus: float
    """Reserved while it trains; GPUs count for themselves."""
    gpus: float

    @cached_property
    def answers(self) -> list[tuple[heldout.HeldOutAnswers, heldout.HeldOutAnswers]]:
        """Held-out answers before and after, by seed."""
        found = []
        for path in self.runs.values():
            folder = RunDirectory(path).heldout
            steps = RolloutStore(folder).steps()
            found.append((heldout.load(folder, steps[0]), heldout.load(folder, steps[-1])))
        return found

    def scores(self, branch: Branch, after: bool, ids: Sequence[str]) -> np.ndarray:
        """Accuracy in [0, 1] of each seed at each question, (seeds, n)."""
        rows = []
        for pair in self.answers:
            answers = pair[after]
            place = {sample.id: i for i, sample in enumerate(answers.samples)}
            rows.append(answers.scores[branch][[place[name] for name in ids]])
        return np.array(rows)

    @cached_property
    def seconds(self) -> float:
        """GPU-seconds where it has GPUs, else CPU-seconds, reserved for training; mean over seeds."""
        return self._total(*(f"time/{phase}" for phase in TRAINING)) * (self.gpus or self.cpus)

    def judged(self, what: str) -> float:
        """``pairs`` of reasoning that were compared, or ``calls`` that a judge was sent for it; mean over seeds."""
        return self._total(f"judge/{what}")

    def _total(self, *metrics: str) -> float:
        """Sum over the steps, those before a run was resumed too; mean over seeds."""
        return float(np.mean([sum(row.get(name, 0.0) for row in read_metrics(RunDirectory(path).metrics) for name in metrics)
                              for path in self.runs.values()]))


def measure(rows: Mapping[str, Row], trials: Sequence[Mapping[str, Any]], folder: Path, job: Job,
            own: Mapping[str, Any]) -> list[Measured]:
    """The rows of which at least one run has finished, in order."""
    known, model = entries(rows), job.load()[0]
    runs: dict[str, dict[int, Path]] = {name: {} for name in rows}
    for trial in trials:
        name, seed = known[trial["values"][ROW]]
        if trial["state"] == "finished":
            runs[name][seed] = folder / "trials" / trial["run"]
    measured = []
    for name, found in runs.items():
        config = validate(model, row_values(rows, f"{name}, seed {rows[name].seeds[0]}", own, job.name), where=name)
        demands = job.demands_of(config)
        if found:
            measured.append(Measured(name, len(rows[name].seeds), dict(sorted(found.items())),
                                     sum(d.count * d.cpus for d in demands), sum(d.count * d.gpus for d in demands)))
    return measured


def table_rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Cells of the table, as `HEAD` names them. Questions that any run lost are left out of all."""
    every = (one for row in measured for pair in row.answers for one in pair)
    common = set.intersection(*({sample.id for sample in answers.samples} for answers in every))
    samples = [sample for sample in measured[0].answers[0][0].samples if sample.id in common]
    ids, videos = [sample.id for sample in samples], [sample.media for sample in samples]

    def interval(before: np.ndarray, after: np.ndarray) -> Interval:
        return paired_bootstrap(before.mean(axis=0), after.mean(axis=0), clusters=videos)

    first = measured[0].scores(Branch.CORRUPTED, True, ids)
    lines = []
    for row in measured:
        corrupted, clean = ((row.scores(branch, False, ids), row.scores(branch, True, ids))
                            for branch in (Branch.CORRUPTED, Branch.CLEAN))
        gains = 100 * (corrupted[1].mean(axis=1) - corrupted[0].mean(axis=1))
        spread = f" ({gains.min():+.1f} to {gains.max():+.1f})" if len(gains) > 1 else ""
        against = "" if row is measured[0] else points(interval(first, corrupted[1]))
        seeds = f"{len(row.runs)}" if len(row.runs) == row.wanted else f"{len(row.runs)} of {row.wanted}"
        lines.append((row.name, seeds, f"{100 * corrupted[1].mean():.1f}", points(interval(*corrupted)) + spread,
                      points(interval(*clean)), against, f"{row.seconds:,.0f}", f"{row.judged('pairs'):,.0f}",
                      f"{row.judged('calls'):,.0f}",
                      "no claim" if len(row.runs) < 3 else ""))
    return lines


def points(interval: Interval) -> str:
    """A difference in percentage points with its interval."""
    return f"{100 * interval.diff:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def notes(measured: Sequence[Measured]) -> list[str]:
    """What a reader of the table must know."""
    before, after = measured[0].answers[0]
    unit = "GPU" if measured[0].gpus else "CPU"
    return [f"Before training: corrupted {before.scores[Branch.CORRUPTED].mean():.1%}, clean "
            f"{before.scores[Branch.CLEAN].mean():.1%}; n = {len(after.samples)} held-out questions.",
            "Gains are over the policy before training; in brackets 95 % bootstrap intervals over videos of the seeds' "
            f"average, in parentheses the lowest and the highest seed. 'Against the first': corrupted accuracy minus that of "
            f"'{measured[0].name}', paired by question. Seconds are {unit}-seconds reserved while training, mean over seeds."]


def markdown(measured: Sequence[Measured]) -> str:
    """The table for documents."""
    lines = [HEAD, ("---",) * len(HEAD), *table_rows(measured)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + "\n".join(notes(measured)) + "\n"


def show_rows(rows: Mapping[str, Row], trials: Sequence[Mapping[str, Any]], folder: Path, job: Job,
              own: Mapping[str, Any]) -> int:
    """Print the table and write it as ablation.md. Returns 0 when every run has finished, else 1.

    Raises:
        SquallError: none has.
    """
    measured = measure(rows, trials, folder, job, own)
    if not measured:
        reason = next((f": {trial['error']}" for trial in trials if trial["error"]), "")
        raise SquallError(f"no row finished{reason}; what there is: {folder}/results.json")
    console = Console()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="left" if number in (0, len(HEAD) - 1) else "right")
    for line in table_rows(measured):
        table.add_row(*line)
    console.print(table)
    for note in notes(measured):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    write_text(folder / "ablation.md", markdown(measured))
    here = from_here(folder)
    print(f"table: {here / 'ablation.md'}\npage: {here / 'sweep.html'}")
    missing = sum(row.wanted for row in measured) - sum(len(row.runs) for row in measured) + sum(
        len(row.seeds) for name, row in rows.items() if name not in {one.name for one in measured})
    if missing:
        print(f"{missing} of {len(entries(rows))} runs did not finish; go on with: squall tune {here / 'sweep.yaml'} --resume")
    return 1 if missing else 0
