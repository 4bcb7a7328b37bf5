"""Cluster bootstrap of figures that follow from sums over questions: whole videos are drawn, never single questions.

All figures are computed from the same draws, so that ratios and differences of them are paired. Intervals are percentile
intervals, widened for few clusters (Hesterberg 2015, arXiv 1411.5279); docs/metrics.md says how often they cover the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES_PER_BLOCK = 250
"""Bounds memory: 250 draws of 10,000 clusters are 20 MB."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Draws:
    """F figures and what they are in B resamples of the clusters."""

    values: np.ndarray
    """Shape (F,); NaN where a figure is not defined."""
    samples: np.ndarray
    """Shape (B, F); NaN where a figure is not defined in a resample."""
    clusters: np.ndarray
    """Shape (F,): how many clusters of one size would say as much, ``(sum n_v)^2 / sum n_v^2`` (Kish 1965)."""

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds, shape (F,) each: see `intervals`."""
        return intervals(self.values, self.samples, self.clusters, confidence)


class Bootstrap:
    """Collects figures of V clusters, and then computes all of them from the same draws.

    A figure is a weighted mean over C conditions of one sum over questions divided by another:
    ``sum_c w_c (sum_v a_vc / sum_v b_vc)``.
    """

    def __init__(self) -> None:
        self._clusters: list[float] = []
        self._numerators: list[np.ndarray] = []
        self._owners: list[int] = []
        self._places: list[int] = []
        self._denominators: dict[bytes, np.ndarray] = {}

    def add(self, numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray) -> None:
        """Add a figure.

        Args:
            numerators, denominators: a and b, shape (V, C): sums over each cluster's questions.
            weights: w, shape (C,), adding up to 1; 0 where a condition has no questions. All 0: the figure is not defined.
        """
        order = {key: place for place, key in enumerate(self._denominators)}
        merged: dict[int, np.ndarray] = {}  # conditions that share a denominator, without lost questions all, are one column
        for c in np.flatnonzero(weights):
            denominator = denominators[:, c].astype(np.float64)
            key = denominator.tobytes()
            self._denominators.setdefault(key, denominator)
            place = order.setdefault(key, len(order))
            merged[place] = merged.get(place, 0.0) + weights[c] * numerators[:, c]
        self._numerators += merged.values()
        self._places += merged
        self._owners += [len(self._clusters)] * len(merged)
        self._clusters.append(_effective(denominators @ weights))

    def draw(self, resamples: int, seed: int) -> Draws:
        """Draw the clusters with replacement, `resamples` times."""
        figures, clusters = len(self._clusters), np.array(self._clusters)
        if not self._numerators:
            return Draws(np.full(figures, np.nan), np.full((resamples, figures), np.nan), clusters)
        numerators, denominators = np.stack(self._numerators, 1), np.stack(list(self._denominators.values()), 1)

        def compute(counts: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                ratios = (counts @ numerators) / (counts @ denominators)[:, self._places]
            return _added(ratios, np.array(self._owners), figures)

        drawn = _drawn(len(numerators), resamples, np.random.default_rng(seed))
        samples = np.concatenate([compute(counts) for counts in drawn])
        return Draws(compute(np.ones((1, len(numerators))))[0], samples, clusters)


def intervals(values: np.ndarray, samples: np.ndarray, clusters: np.ndarray,
              confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Expanded percentile intervals of figures (F,) from their resamples (B, F).

    Percentiles are taken at ``Phi(-t sqrt(n / (n - 1)))``, t the quantile of Student's distribution with n - 1 degrees of
    freedom for n `clusters` (F,). Where all resamples are equal they know no spread: the bound is then the one of Wilson's
    interval for none in n, ``z^2 / (n + z^2)``, on either side: right for figures in [0, 1] and their differences. NaN where a
    figure is not defined.
    """
    low, high = np.full_like(values, np.nan), np.full_like(values, np.nan)
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    for i in np.flatnonzero(np.isfinite(values)):
        column = samples[:, i][np.isfinite(samples[:, i])]
        if np.ptp(column) > 1e-12:
            tail = _tail(float(clusters[i]), confidence)
            low[i], high[i] = np.quantile(column, [tail, 1 - tail])
        else:
            spread = z * z / (clusters[i] + z * z)
            low[i], high[i] = values[i] - spread, values[i] + spread
    return low, high


def simultaneous_interval(values: np.ndarray, samples: np.ndarray, clusters: float, chosen: int,
                          confidence: float = 0.95) -> tuple[float, float]:
    """Interval of one of F figures that was chosen for its value: of a band that holds all of them at once.

    The band is as wide, in standard errors, as the farthest of the figures strays in a resample. `values` are (F,), `samples`
    (B, F). An interval of the chosen one alone would forget that chance helped to choose it.
    """
    errors = np.nanstd(samples, axis=0)
    if len(values) == 1 or errors[chosen] < 1e-12:
        low, high = intervals(values, samples, np.full(len(values), clusters), confidence)
        return float(low[chosen]), float(high[chosen])
    spread = errors > 1e-12
    strays = (samples[:, spread] - values[spread]) / errors[spread]
    tail = _tail(clusters, confidence)
    down, up = np.nanquantile(np.nanmin(strays, axis=1), tail), np.nanquantile(np.nanmax(strays, axis=1), 1 - tail)
    return float(values[chosen] - up * errors[chosen]), float(values[chosen] - down * errors[chosen])


def effective_clusters(labels: np.ndarray) -> float:
    """How many clusters of one size would say as much as these, given each question's label, shape (Q,) (Kish 1965)."""
    return _effective(np.unique(labels, return_counts=True)[1].astype(np.float64))


def student_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t distribution (Abramowitz and Stegun 26.7.5), right to 1 % from 3 degrees of freedom on."""
    z = _NORMAL.inv_cdf(share)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
             (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160)
    return sum(term / freedom**power for power, term in enumerate(terms))


def _tail(clusters: float, confidence: float) -> float:
    t = student_quantile(0.5 + confidence / 2, clusters - 1)
    return _NORMAL.cdf(-t * math.sqrt(clusters / (clusters - 1)))


def _drawn(clusters: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, in blocks of shape (b, V)."""
    for start in range(0, resamples, RESAMPLES_PER_BLOCK):
        block = min(RESAMPLES_PER_BLOCK, resamples - start)
        drawn = rng.integers(clusters, size=(block, clusters)) + clusters * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _added(ratios: np.ndarray, owner: np.ndarray, figures: int) -> np.ndarray:
    """Sum the columns (b, K) of each figure; figures without one are NaN."""
    total = np.full((len(ratios), figures), np.nan)
    present, starts = np.unique(owner, return_index=True)
    if len(present):
        total[:, present] = np.add.reduceat(ratios, starts, axis=1)
    return total


def _effective(sizes: np.ndarray) -> float:
    squares = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0
