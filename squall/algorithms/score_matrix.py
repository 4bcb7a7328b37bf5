"""Scores of Q questions in C conditions, clean first, and their sums by cluster: robustness figures follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

RIGHT_ABOVE = 0.5
"""A question counts as right above this score, for flips."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How clips were changed; clean ones have neither kind, family nor severity."""

    name: str
    kind: str | None = None
    family: str | None = None
    severity: float | None = None
    """In [0, 1]."""


@dataclass(frozen=True)
class ScoreMatrix:
    """One model's answers to Q questions in C conditions."""

    conditions: tuple[Condition, ...]
    """C of them, clean first; its column is all NaN where nothing was asked clean."""
    scores: np.ndarray
    """Shape (Q, C), in [0, 1]; NaN where the question was lost in that condition."""
    meanings: np.ndarray
    """Shape (Q, C), integers: equal ones mean the same; negative where there is no answer."""
    clusters: np.ndarray
    """Shape (Q,): label of each question's source video."""
    types: np.ndarray
    """Shape (Q,): question types."""
    top5: np.ndarray | None = None
    """Shape (Q, C), in [0, 1], NaN where lost; None for models that are no classifiers."""

    def select(self, questions: Sequence[int], conditions: Sequence[int]) -> ScoreMatrix:
        """The same with some questions and conditions alone, in the order given; the first condition must be the clean one."""
        rows, cells = list(questions), np.ix_(questions, conditions)
        return ScoreMatrix(tuple(self.conditions[c] for c in conditions), self.scores[cells], self.meanings[cells],
                           self.clusters[rows], self.types[rows], None if self.top5 is None else self.top5[cells])

    @cached_property
    def answered(self) -> np.ndarray:
        """Bool, shape (Q, C)."""
        return np.isfinite(self.scores)

    @cached_property
    def paired(self) -> np.ndarray:
        """Bool, shape (Q, C): answered in the condition and clean."""
        return self.answered & self.answered[:, :1]

    @cached_property
    def right_when_clean(self) -> np.ndarray:
        """Bool, shape (Q, C): paired, and right when clean."""
        return self.paired & (self.scores[:, :1] > RIGHT_ABOVE)

    @cached_property
    def flipped(self) -> np.ndarray:
        """Bool, shape (Q, C): right when clean and wrong in the condition."""
        return self.right_when_clean & ~(self.scores > RIGHT_ABOVE)

    @cached_property
    def consistent(self) -> np.ndarray:
        """Bool, shape (Q, C): paired, and the answer means the same. No answer means nothing, not even the same as none."""
        return self.paired & (self.meanings == self.meanings[:, :1]) & (self.meanings >= 0)


class ClusterSums:
    """Sums over the questions of each of V clusters, in the order of their labels."""

    def __init__(self, clusters: np.ndarray) -> None:
        """`clusters` are labels, shape (Q,)."""
        _, membership = np.unique(clusters, return_inverse=True)
        self._order = np.argsort(membership, kind="stable")
        self._starts = np.searchsorted(membership[self._order], np.arange(membership.max(initial=-1) + 1))

    def __call__(self, values: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Shape (V, C), from values and bools of shape (Q, C): those that are not `where` count as 0."""
        return np.add.reduceat(np.where(where, values, 0.0)[self._order], self._starts, axis=0)


def average_answers(cells: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of the values (N,) of each cell, shape (Q, C); `cells` are flat indices (N,), and cells without a value are NaN."""
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        return (np.bincount(cells, weights=values, minlength=len(counts)) / counts).reshape(shape)


def majority_meanings(cells: np.ndarray, meanings: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Most frequent meaning of each cell, shape (Q, C); -1 where there is none.

    Args:
        cells: flat index of each answer's cell, (N,), in the order of answers.
        meanings: its meaning, (N,); negative ones do not vote. A tie goes to the first to occur.
    """
    majority = np.full(shape[0] * shape[1], -1, dtype=np.int64)
    voting = np.flatnonzero(meanings >= 0)
    pairs, first, votes = np.unique(np.stack([cells[voting], meanings[voting]]), axis=1, return_index=True, return_counts=True)
    best_last = np.lexsort((-first, votes, pairs[0]))
    majority[pairs[0][best_last]] = pairs[1][best_last]  # of equal indices the last assignment stays
    return majority.reshape(shape)


def nested_weights(outer: Sequence[object], present: np.ndarray) -> np.ndarray:
    """Weights (C,) of a mean over conditions within each outer label, then over labels; conditions that are not `present`
    (C,), or whose label is None, weigh 0."""
    weights = np.zeros(len(outer))
    labels = list(dict.fromkeys(label for label, here in zip(outer, present, strict=True) if here and label is not None))
    for label in labels:
        inside = np.array([one == label for one in outer]) & present
        weights[inside] = 1.0 / (len(labels) * inside.sum())
    return weights
