"""A hunt for an attempt that fools: it counts, remembers the best attempt, and ends at the first that fools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from squall.algorithms.video_attack.asking import Answer, Ask, Budgeted, read_answers

Attempt = TypeVar("Attempt")
TINY = 1e-30
"""Least probability whose logarithm is told from that of 0."""


class Fooled(Exception):
    """The victim took a clip for another class: the hunt is over."""


class LabelsAlone(Exception):
    """Every answer so far was a label, and the control lives on probabilities."""


class Search(Generic[Attempt]):
    """The questions about one clip.

    An attempt is whatever a control varies, such as the cells that are on; `render` makes the clip of it that is asked about.
    """

    def __init__(self, ask: Ask, label: int, limit: int, start: Attempt, render: Callable[[Attempt], np.ndarray],
                 graded: bool) -> None:
        """Ask about `limit` attempts on a clip of class `label`, and no more.

        Args:
            start: the attempt that leaves the clip as it is.
            graded: raise LabelsAlone at a victim whose answers to more than the first clip are labels alone.
        """
        self._budget, self._render, self._label = Budgeted(ask, limit), render, label
        self._needs_grades = graded
        self.best = start
        """The first attempt that fooled; until then the one with the least probability of the label."""
        self.fooled = False
        """Whether `best` fools. A victim that errs on the clean clip, the first, is not fooled, though the hunt ends there."""
        self.trace: list[tuple[int, float]] = []
        """Number of each query and the probability of the label."""
        self._least = np.inf

    @property
    def queries(self) -> int:
        """Clips asked about."""
        return self._budget.queries

    @property
    def left(self) -> int:
        """Clips that may still be asked about."""
        return self._budget.left

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self._budget.queries / self._budget.limit

    @property
    def clip(self) -> np.ndarray:
        """The best attempt as a clip."""
        return self._render(self.best)

    def ask(self, attempts: Iterable[Attempt], at_once: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the label (n,) and margins (n,) of n attempts, n >= 1, asked about `at_once` by `at_once`.

        The margin is log p(label) - log p(likeliest other class).

        Raises:
            Fooled: one of them fools and is `best` now; the others of its batch have been asked about too.
            BudgetSpent: the budget does not reach for all of them; those for which it does have been asked about.
            LabelsAlone: the search needs probabilities, and the victim gives labels.
        """
        remaining, answers = iter(attempts), []
        while batch := list(islice(remaining, min(at_once, max(self.left, 1)))):
            answers.append(self._answers(batch))
        probabilities, margins = zip(*answers, strict=True)
        return np.concatenate(probabilities), np.concatenate(margins)

    def still_fools(self, attempt: Attempt) -> bool:
        """Ask whether a smaller attempt fools as the best did; where it does, it takes its place. Raises BudgetSpent."""
        (answer,) = read_answers(self._budget(self._render(attempt)[None]), 1, self._label)
        if answer.flipped:
            self.best = attempt
        return answer.flipped

    def _answers(self, attempts: list[Attempt]) -> tuple[np.ndarray, np.ndarray]:
        asked = self.queries
        rows = self._budget(np.stack([self._render(attempt) for attempt in attempts]))
        answers = read_answers(rows, len(attempts), self._label)
        self.trace += [(asked + number, answer.p_label) for number, answer in enumerate(answers, 1)]
        self._note(attempts, answers)
        self._needs_grades &= not ((rows > 0) & (rows < 1)).any()
        if self._needs_grades and self.queries > 1:
            raise LabelsAlone
        own, others = rows[:, self._label], np.delete(rows, self._label, axis=1).max(1)
        return own, np.log(np.maximum(own, TINY)) - np.log(np.maximum(others, TINY))

    def _note(self, attempts: list[Attempt], answers: list[Answer]) -> None:
        """Of a batch, the first attempt that fools counts, or else the one that came nearest."""
        attempt, answer = min(zip(attempts, answers, strict=True), key=_rank)
        if answer.flipped or answer.p_label < self._least:
            self.best, self._least = attempt, answer.p_label
        if answer.flipped:
            self.fooled = self.queries > 1
            raise Fooled


def _rank(pair: tuple[Attempt, Answer]) -> tuple[bool, float]:
    _, answer = pair
    return (False, 0.0) if answer.flipped else (True, answer.p_label)
