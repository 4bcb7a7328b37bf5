"""Finding answers among those that a run stored: filters, order and figures, by column.

A scan reads the small columns alone, file by file; texts are read for the answers that are shown. So a run of a million
answers is searched in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.platform.config import read_yaml
from squall.platform.errors import DataError, nearest
from squall.platform.records import Branch
from squall.platform.runs import RunDirectory
from squall.platform.store import SCHEMA, RolloutStore, read_columns

Order = Literal["step", "reward_high", "reward_low"]

_SCANNED = ("group", "branch", "corruption_kind", "corruption_severity", "sample_id", "dropped", "rewards")


@dataclass(frozen=True, slots=True)
class AnswerFilter:
    """Which answers are wanted. A field that is None asks nothing; all others must hold."""

    steps: tuple[int, int] | None = None
    """First and last step, both included, counted from 0 as in the file names."""
    branch: str | None = None
    """``clean``, ``corrupted`` or ``shuffled``."""
    kind: str | None = None
    """Corruption kind of the answer's group, whichever branch the answer is of."""
    severity: tuple[float, float] | None = None
    """Lowest and highest severity of the group's corruption, both included."""
    reward: tuple[float, float] | None = None
    """Lowest and highest reward, both included."""
    sample: str | None = None
    """Id of the question."""
    correct: bool | None = None
    """Whether the answer counts as right."""
    dropped: bool | str | None = None
    """Whether the answer's group was left out of training, or the reason."""
    text: str | None = None
    """Part of the answer, in upper or lower case."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How an answer's rewards become one number, and when it counts as right."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each reward in the sum; without any, every reward weighs 1."""
    name: str | None = None
    """The one reward to take, unweighted, in place of the sum."""
    correct_above: float = 0.5
    """Accuracy above which an answer is right."""

    def total(self, rewards: Mapping[str, float]) -> float | None:
        """The one number of an answer; None when the one reward was not computed."""
        if self.name:
            return rewards.get(self.name)
        return sum(rewards.get(name, 0.0) * weight for name, weight in (self.weights or dict.fromkeys(rewards, 1.0)).items())

    def is_correct(self, rewards: Mapping[str, float]) -> bool | None:
        """Whether the answer is right; None without an accuracy reward."""
        return rewards["accuracy"] > self.correct_above if "accuracy" in rewards else None


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that match."""

    table: pa.Table
    """A row per answer in the order of step and file: ``step``, ``row`` (in its file), ``group`` (in its step), ``branch``,
    ``kind``, ``severity``, ``sample``, ``dropped``, ``reward`` (null where it was not computed), ``accuracy`` in [0, 1]
    and ``correct`` (both null without an accuracy reward)."""
    total: int
    """Answers in the files that were read."""
    damaged: tuple[Path, ...]
    """Files that were left out because they cannot be read."""
    rewards: tuple[str, ...] = ()
    """Names of all rewards that an answer has; the learner's have only the ones that were trained."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the answers of one branch or kind."""

    label: str
    count: int
    reward: float | None
    accuracy: float | None
    """In [0, 1]."""


def scan(store: RolloutStore, wanted: AnswerFilter, scoring: Scoring, *, skip_damaged: bool = False) -> Answers:
    """Find the answers that match.

    Raises:
        DataError: no step is stored, or none in the range; a file is damaged, unless `skip_damaged` leaves it out; no answer
            has the reward that is asked for, or was dropped for the reason that is.
    """
    tables, damaged, names, reasons, total = [], [], set(), set(), 0
    for step in _steps(store, wanted.steps):
        try:
            read = read_columns(store.path(step), (*_SCANNED, *(("text",) if wanted.text else ())))
        except DataError as error:
            if not skip_damaged:
                raise DataError(f"{error}; remove it, or leave it out with skip_damaged=true", reason=error.reason) from None
            damaged.append(store.path(step))
            continue
        total += len(read)
        names.update(pc.unique(read["rewards"].combine_chunks().keys).to_pylist())
        reasons.update(read["dropped"].unique().drop_null().to_pylist())
        tables.append(_matching(read, _columns(read, step, scoring), wanted))
    if not tables:
        return Answers(_columns(SCHEMA.empty_table(), 0, scoring), 0, tuple(damaged))
    _check_known(store, "reward", scoring.name, names)
    _check_known(store, "reason for dropping", wanted.dropped if isinstance(wanted.dropped, str) else None, reasons)
    return Answers(pa.concat_tables(tables), total, tuple(damaged), tuple(sorted(names)))


def run_scoring(run: RunDirectory, name: str | None = None) -> Scoring:
    """How a run weighs its rewards and when an answer of it is right, by its config.yaml."""
    values = read_yaml(run.config) if run.config.exists() else {}
    weights = (values.get("rewards") or {}).get("weights") or {}
    return Scoring(weights, name, (values.get("tgrpo") or {}).get("correct_above", Scoring().correct_above))


def ordered(table: pa.Table, order: Order, limit: int | None = None) -> pa.Table:
    """The first `limit` rows of `Answers.table` in an order; answers without a reward come last, equals in stored order."""
    if order != "step":
        direction = "descending" if order == "reward_high" else "ascending"
        keys = [("reward", direction), ("step", "ascending"), ("row", "ascending")]
        table = table.take(pc.sort_indices(table, keys))
    return table if limit is None else table.slice(0, limit)


def fetch(store: RolloutStore, chosen: pa.Table, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Stored columns of chosen rows of `Answers.table`, in their order. Rows in the order of step are read file by file."""
    places = list(zip(chosen["step"].to_pylist(), chosen["row"].to_pylist(), strict=True))
    in_order = sorted(places)
    rows = (row for step, group in groupby(in_order, key=itemgetter(0))
            for row in read_columns(store.path(step), columns).take([position for _, position in group]).to_pylist())
    if places == in_order:
        yield from rows
    else:
        found = dict(zip(in_order, rows, strict=True))
        yield from (found[place] for place in places)


def figures(table: pa.Table, by: str, branch: Branch | None = None) -> list[Figures]:
    """Count and means for each value of a column of `Answers.table`, most answers first; `branch` leaves the others out.

    Rows without a value in the column are left out.
    """
    if branch is not None:
        table = table.filter(pc.equal(table["branch"], branch.value))
    means = table.group_by(by).aggregate([("step", "count"), ("reward", "mean"), ("accuracy", "mean")])
    rows = sorted(means.to_pylist(), key=lambda row: (-row["step_count"], str(row[by])))
    return [Figures(str(row[by]), row["step_count"], row["reward_mean"], row["accuracy_mean"])
            for row in rows if row[by] is not None]


def _steps(store: RolloutStore, wanted: tuple[int, int] | None) -> list[int]:
    stored = store.steps()
    if not stored:
        raise DataError(f"{store.folder}: no rollouts are stored here", reason="missing_rollouts")
    first, last = wanted or (stored[0], stored[-1])
    chosen = [step for step in stored if first <= step <= last]
    if not chosen:
        raise DataError(f"{store.folder}: no rollouts of steps {first} to {last}; stored steps are {stored[0]} to {stored[-1]}",
                        reason="missing_rollouts")
    return chosen


def _columns(read: pa.Table, step: int, scoring: Scoring) -> pa.Table:
    rewards = read["rewards"]
    accuracy = _reward(rewards, "accuracy")
    return pa.table({
        "step": np.full(len(read), step, np.int32),
        "row": np.arange(len(read), dtype=np.int32),
        "group": read["group"], "branch": read["branch"],
        "kind": read["corruption_kind"], "severity": read["corruption_severity"],
        "sample": read["sample_id"], "dropped": read["dropped"],
        "reward": _reward(rewards, scoring.name) if scoring.name else _weighted(rewards, scoring.weights),
        "accuracy": accuracy,
        "correct": pc.greater(accuracy, scoring.correct_above),
    })


def _reward(rewards: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.map_lookup(rewards, pa.scalar(name), "first")


def _weighted(rewards: pa.ChunkedArray, weights: Mapping[str, float]) -> pa.ChunkedArray:
    names = weights or dict.fromkeys(pc.unique(rewards.combine_chunks().keys).to_pylist(), 1.0)
    parts = [pc.multiply(pc.fill_null(_reward(rewards, name), 0.0), float(weight)) for name, weight in names.items()]
    return reduce(pc.add, parts, pa.chunked_array([np.zeros(len(rewards))]))


def _matching(read: pa.Table, table: pa.Table, wanted: AnswerFilter) -> pa.Table:
    equal = {"branch": wanted.branch, "kind": wanted.kind, "sample": wanted.sample, "correct": wanted.correct,
             "dropped": wanted.dropped if isinstance(wanted.dropped, str) else None}
    within = {"severity": wanted.severity, "reward": wanted.reward}
    masks = [pc.equal(table[name], value) for name, value in equal.items() if value is not None]
    for name, limits in within.items():
        if limits is not None:
            masks += [pc.greater_equal(table[name], limits[0]), pc.less_equal(table[name], limits[1])]
    if isinstance(wanted.dropped, bool):
        masks.append(table["dropped"].is_valid() if wanted.dropped else table["dropped"].is_null())
    if wanted.text:
        masks.append(pc.match_substring(read["text"], wanted.text, ignore_case=True))
    return table.filter(reduce(pc.and_, masks)) if masks else table


def _check_known(store: RolloutStore, what: str, name: str | None, known: set[str]) -> None:
    if name is not None and name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise DataError(f"{store.folder}: no answer here has the {what} '{name}'.{nearest(name, known)} Known here: {listed}")
