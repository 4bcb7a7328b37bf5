"""Answers of two runs of one model that differ though they should not, and how near the model was to saying the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_COLUMNS = ("question", "sample_id", "condition", "index", "text", "token_ids", "logprobs")
_ROWS_PER_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class DifferingAnswer:
    """One answer that is not the same in two runs."""

    question: int
    sample_id: str
    condition: str
    index: int
    position: int | None
    """Of the first token that differs, from 0; None where tokens are not known or one run has no answer."""
    first_text: str | None
    """None where the first run has no answer."""
    second_text: str | None
    margin: float | None
    """``|first log-probability - second|`` of what each run said there, in nats; None where one of them is not known."""
    lead: float | None
    """How far at least a run preferred its own token to the other's, in nats: the larger ``log p / (1 - p)``, or 0. Rounding
    turns answers whose lead is near 0; a large one is a real difference. None as for `margin`."""


def differing_answers(first: pa.Table, second: pa.Table) -> tuple[DifferingAnswer, ...]:
    """Every answer that differs between two runs of the same model over the same questions, in the order of the first.

    Answers that one run alone has come last. Token ids are compared, or texts where ids are not known. Tables are as `ANSWERS`.
    """
    place = {key: row for row, key in enumerate(_keys(second))}
    pairs = [(row, place.pop(key, None)) for row, key in enumerate(_keys(first))]
    both = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
    differing = _compare(_rows(first, [mine for mine, _ in both]), _rows(second, [theirs for _, theirs in both]))
    first_alone = _rows(first, [mine for mine, theirs in pairs if theirs is None]).to_pylist()
    second_alone = _rows(second, list(place.values())).to_pylist()
    return (*differing, *(_differing(row, None) for row in first_alone), *(_differing(None, row) for row in second_alone))


def _rows(table: pa.Table, places: Sequence[int]) -> pa.Table:
    return table.select(_COLUMNS).take(pa.array(places, pa.int64()))


def _keys(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in ("sample_id", "condition", "index")), strict=True))


def _compare(first: pa.Table, second: pa.Table) -> Iterator[DifferingAnswer]:
    for start in range(0, len(first), _ROWS_PER_BATCH):
        rows = (table.slice(start, _ROWS_PER_BATCH).to_pylist() for table in (first, second))
        for mine, theirs in zip(*rows, strict=True):
            known = mine["token_ids"] and theirs["token_ids"]
            if mine["token_ids"] != theirs["token_ids"] if known else mine["text"] != theirs["text"]:
                yield _differing(mine, theirs)


def _differing(mine: dict[str, Any] | None, theirs: dict[str, Any] | None) -> DifferingAnswer:
    row = mine or theirs
    position = _first_difference(mine["token_ids"], theirs["token_ids"]) if mine and theirs else None
    logs = [] if position is None else [one["logprobs"][position] for one in (mine, theirs) if position < len(one["logprobs"])]
    margin, lead = (abs(logs[0] - logs[1]), max(0.0, *map(_lead, logs))) if len(logs) == 2 else (None, None)
    return DifferingAnswer(row["question"], row["sample_id"], row["condition"], row["index"], position,
                           mine and mine["text"], theirs and theirs["text"], margin, lead)


def _first_difference(first: list[int] | None, second: list[int] | None) -> int | None:
    """Where one ends and the other goes on, they differ too."""
    if not first or not second:
        return None
    same = min(len(first), len(second))
    return next((i for i in range(same) if first[i] != second[i]), same)


def _lead(log_probability: float) -> float:
    """The other's token has at most what this one leaves."""
    rest = -math.expm1(min(log_probability, 0.0))
    return log_probability - math.log(rest) if rest > 0 else math.inf
