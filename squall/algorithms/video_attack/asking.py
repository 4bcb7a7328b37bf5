"""How an attack asks a victim: clips in, probabilities out, and every clip counted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from squall.platform.errors import DataError

Ask: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Probabilities (n, K) of uint8 clips (n, T, H, W, 3) RGB. A failure of the victim's machine is raised, never returned."""

Result = TypeVar("Result")
Asking: TypeAlias = Generator[np.ndarray, np.ndarray, Result]
"""Yields clips (n, T, H, W, 3) that it wants to know about, is sent their rows (n, K), or thrown the victim's failure, and
returns its result."""

SLACK = 1e-2
"""How far a row's sum may be from 1, and a probability outside [0, 1]: victims compute in half precision too."""


ODDS_FLOOR = 1e-9
"""Smallest probability that log odds tell from 0."""
LOG_ODDS_LIMIT = float(-np.log(ODDS_FLOOR))


class BudgetSpent(Exception):
    """An attack wanted to ask about more clips than it has left; nothing of that request was asked."""


class Budgeted:
    """An `Ask` that counts every clip and stops at a limit."""

    def __init__(self, ask: Ask, limit: int) -> None:
        self._ask = ask
        self.limit = limit
        self.queries = 0
        """Clips that the victim answered, whatever it said of them."""

    @property
    def left(self) -> int:
        """Clips that may still be asked about."""
        return self.limit - self.queries

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Float64 (n, K) of uint8 clips (n, T, H, W, 3).

        Raises:
            BudgetSpent: n is more than what is left.
            DataError: as `checked`.
        """
        if len(clips) > self.left:
            raise BudgetSpent(f"{len(clips)} clips to ask about, and {self.left} of {self.limit} queries left")
        answer = self._ask(clips)
        self.queries += len(clips)
        return checked(answer, len(clips))


def checked(probabilities: np.ndarray, count: int) -> np.ndarray:
    """A victim's answer about `count` clips as float64 (count, K).

    Raises:
        DataError: it has another shape, or its rows are no probabilities (reason ``bad_output``).
    """
    try:
        rows = np.asarray(probabilities, np.float64)
    except (TypeError, ValueError):
        raise _refusal(f"{type(probabilities).__name__}, no array of numbers", count) from None
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] < 2:
        raise _refusal(f"shape {rows.shape}", count)
    if not np.isfinite(rows).all():
        raise _refusal("values that are not finite", count)
    if rows.min() < -SLACK or np.abs(rows.sum(1) - 1).max() > SLACK:
        raise _refusal(f"rows from {rows.min():.3g} to {rows.max():.3g} that sum to {rows[0].sum():.3g}; are these logits?",
                       count)
    return rows


def ask_together(askings: Sequence[Asking[Result]], ask: Ask) -> list[Result]:
    """What each comes to. All clips that they want to know about at a time go to the victim as one batch.

    Raises:
        Exception: what `ask` or `checked` raises, where an asking that is thrown it does not take it.
    """
    results: list[Any] = [None] * len(askings)
    wanted: dict[int, np.ndarray] = {}

    def resume(number: int, step: Callable[..., np.ndarray], *values: Any) -> None:
        try:
            wanted[number] = step(*values)
        except StopIteration as end:
            results[number] = end.value

    for number, asking in enumerate(askings):
        resume(number, asking.__next__)
    while wanted:
        asked, clips = list(wanted), list(wanted.values())
        wanted.clear()
        try:
            rows = checked(ask(np.concatenate(clips)), sum(map(len, clips)))
        except Exception as error:
            for number in asked:
                resume(number, askings[number].throw, error)
        else:
            for number, part in zip(asked, np.split(rows, np.cumsum([len(some) for some in clips])[:-1]), strict=True):
                resume(number, askings[number].send, part)
    return results


@dataclass(frozen=True, slots=True)
class Answer:
    """The victim's word on one clip."""

    p_label: float
    margin: float
    """Probability of the label less that of the likeliest other class, in [-1, 1]."""
    log_odds: float
    """log of the label's probability over that of all other classes together, within +-20.8. It still moves where the label's
    probability is so near to 1 that it seems to stand still."""
    flipped: bool
    """Another class than the label is the likeliest."""


def read_answers(probabilities: np.ndarray, count: int, label: int) -> list[Answer]:
    """What a victim said of `count` clips.

    Raises:
        DataError: as `checked`, or the victim has no class of that number (reason ``bad_output``).
    """
    rows = checked(probabilities, count)
    if not 0 <= label < rows.shape[1]:
        raise DataError(f"label {label}, and the victim has {rows.shape[1]} classes, numbered from 0", reason="bad_output")
    own, others = rows[:, label], np.delete(rows, label, 1)
    odds = (np.log(values.clip(ODDS_FLOOR, 1)) for values in (own, others.sum(1)))
    columns = own, own - others.max(1), np.subtract(*odds), rows.argmax(1) != label
    return [Answer(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def label_only(ask: Ask) -> Ask:
    """The same victim when it tells no more than the class: rows are 1 at the largest probability and 0 elsewhere."""

    def told(clips: np.ndarray) -> np.ndarray:
        rows = checked(ask(clips), len(clips))
        return np.eye(rows.shape[1])[rows.argmax(1)]

    return told


def _refusal(found: str, count: int) -> DataError:
    return DataError(f"the victim returned {found} for {count} clips; expected finite probabilities ({count}, classes) whose"
                     " rows sum to 1, of two classes or more", reason="bad_output")
