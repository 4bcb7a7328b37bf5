"""Statistics of paired evaluations: bootstrap intervals, McNemar's test with Holm's correction, Wilson's interval, drop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from squall.algorithms.bootstrap import Bootstrap


@dataclass(frozen=True, slots=True)
class Interval:
    """Means before and after, their difference and its confidence interval, in the units of the scores."""

    before: float
    after: float
    diff: float
    """``after - before``."""
    low: float
    high: float


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap interval of ``mean(after) - mean(before)`` over the same n questions, as `bootstrap.intervals` makes it.

    Where no cluster differs from another, as with one alone, bounds suppose scores in [0, 1].

    Args:
        before, after: scores, bool or float, shape (n,), in the same order of questions.
        clusters: label of each question's cluster, shape (n,), such as its source video; whole clusters are drawn.
            Questions about one video are not independent: without clusters their interval is too narrow.
        resamples: number of bootstrap samples.
        confidence: coverage in (0, 1).

    Raises:
        ValueError: shapes differ, there is no question, or a score is not finite.
    """
    before_n, after_n = _paired(before, after)
    differences = after_n - before_n
    sums, counts = _cluster_totals(differences, clusters)
    figure = Bootstrap()
    figure.add(sums[:, None], counts[:, None], np.ones(1))
    low, high = (float(bound[0]) for bound in figure.draw(resamples, seed).interval(confidence))
    return Interval(float(before_n.mean()), float(after_n.mean()), float(differences.mean()), low, high)


def relative_drop(original: float, average: float) -> float:
    """``(original - average) / original``: the share of clean accuracy lost under corruption (ROVA, Table 2).

    NaN when the clean accuracy is 0, where no drop is defined.
    """
    return (original - average) / original if original else math.nan


def mcnemar_exact(before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Two-sided exact McNemar p-value in (0, 1] for binary scores of the same questions, shape (n,) each.

    Only the questions whose correctness changed count; under the null each change is a fair coin. With `clusters` each
    cluster's changes, gained minus lost, are one coin: questions about one video change together, and counted one by one
    they make chance look significant. With one question per cluster both are the same test.
    """
    before_n, after_n = _paired(before, after)
    if not (np.isin(before_n, (0.0, 1.0)).all() and np.isin(after_n, (0.0, 1.0)).all()):
        raise ValueError("mcnemar_exact: scores must be 0 or 1; use paired_bootstrap for graded scores")
    gains, _ = _cluster_totals(after_n - before_n, clusters)
    gains = np.rint(gains).astype(np.int64)
    chances = np.ones(1)  # of the sums of signed gains, from the lowest to the highest, two apart
    for size, count in zip(*np.unique(np.abs(gains[gains != 0]), return_counts=True), strict=True):
        coins = np.zeros(size * count + 1)
        coins[::size] = _fair_coins(int(count))
        chances = np.convolve(chances, coins)
    middle = len(chances) - 1
    sums = np.abs(2 * np.arange(len(chances)) - middle)
    return float(min(1.0, max(chances[sums >= abs(int(gains.sum()))].sum(), np.finfo(float).tiny)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted so that the chance of any false finding among all of them stays below the level (Holm 1979).

    None, where there was no test, stays None and does not count.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = highest
    return adjusted


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, inside [0, 1]; (0, 1) when there were no trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"wilson_interval: {successes} successes in {trials} trials; 0 <= successes <= trials needed")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def binomial_tails(trials: int, share: float) -> np.ndarray:
    """Chance of k successes or more in `trials`, each with probability `share` in (0, 1): shape (trials + 1,), k from 0 on."""
    k = np.arange(trials + 1)
    chances = np.exp(_log_choices(trials) + k * math.log(share) + (trials - k) * math.log1p(-share))
    return np.minimum(chances[::-1].cumsum()[::-1], 1.0)


def _paired(before: ArrayLike, after: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    before_n, after_n = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before_n.shape != after_n.shape or before_n.ndim != 1 or not len(before_n):
        raise ValueError(f"paired scores need one shape (n,), n >= 1; got {before_n.shape} and {after_n.shape}")
    if not (np.isfinite(before_n).all() and np.isfinite(after_n).all()):
        raise ValueError("paired scores must be finite: leave out questions without a score on both sides")
    return before_n, after_n


def _cluster_totals(differences: np.ndarray, clusters: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of differences and number of questions per cluster."""
    if clusters is None:
        return differences, np.ones_like(differences)
    labels = np.asarray(clusters)
    if labels.shape != differences.shape:
        raise ValueError(f"clusters need shape {differences.shape}, one label per question; got {labels.shape}")
    _, membership = np.unique(labels, return_inverse=True)
    return np.bincount(membership, weights=differences), np.bincount(membership).astype(np.float64)


def _fair_coins(count: int) -> np.ndarray:
    """Chance of 0, 1, ..., `count` heads."""
    return np.exp(_log_choices(count) - count * math.log(2))


def _log_choices(count: int) -> np.ndarray:
    """Logarithm of the ways to choose 0, 1, ..., `count` of `count`."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return logs[-1] - logs - logs[::-1]
