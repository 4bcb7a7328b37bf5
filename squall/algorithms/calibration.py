"""How far a model's confidence and its accuracy lie apart (Guo et al. 2017, arXiv 1706.04599; Brier 1950)."""

from __future__ import annotations

import numpy as np

from squall.algorithms.bootstrap import Bootstrap, intervals
from squall.algorithms.score_matrix import ClusterSums
from squall.platform.report_card import Calibration, CalibrationBin, Estimate

BINS = 10


def calibrate(confidence: np.ndarray, scores: np.ndarray, clusters: np.ndarray, resamples: int = 4000,
              seed: int = 0) -> Calibration | None:
    """Calibration over n answers; None where none has a confidence.

    ``ece = sum_b |sum of (score - confidence) in bin b| / n``; ``brier = mean (confidence - score)^2``. Chance makes the former
    larger than it is, in answers and again in resamples of them. So its lower bound is what is left when the bins' gaps are as
    far from the true ones, in sum, as resamples stray from them; the upper one is the percentile.

    Args:
        confidence: shape (n,), in [0, 1]; NaN where it is not known.
        scores: shape (n,), in [0, 1].
        clusters: label of each answer's source video, shape (n,).
    """
    known = np.isfinite(confidence)
    confidence, scores, clusters = confidence[known], scores[known], clusters[known]
    if not len(scores):
        return None
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = bins[:, None] == np.arange(BINS)
    sums, everything = ClusterSums(clusters), np.ones((len(scores), 1), bool)
    counts = sums(everything, everything)
    figures = Bootstrap()
    figures.add(sums(((confidence - scores) ** 2)[:, None], everything), counts, np.ones(1))
    gaps = sums((scores - confidence)[:, None] * np.ones(BINS), inside)
    for b in range(BINS):
        figures.add(gaps[:, b:b + 1], counts, np.ones(1))
    draws = figures.draw(resamples, seed)
    ece = float(np.abs(draws.values[1:]).sum())
    samples = np.stack([np.abs(draws.samples[:, 1:]).sum(1), np.abs(draws.samples[:, 1:] - draws.values[1:]).sum(1)], 1)
    _, highest = intervals(np.array([ece, 0.0]), samples, draws.clusters[:2])
    brier_low, brier_high = draws.interval()
    return Calibration(
        ece=Estimate.of(ece, ece - highest[1], highest[0], len(scores), (0.0, 1.0)),
        brier=Estimate.of(draws.values[0], brier_low[0], brier_high[0], len(scores), (0.0, 1.0)),
        bins=tuple(_bin(b, confidence[inside[:, b]], scores[inside[:, b]]) for b in range(BINS)), n=len(scores))


def _bin(number: int, confidence: np.ndarray, scores: np.ndarray) -> CalibrationBin:
    means = (round(float(values.mean()), 6) if len(values) else None for values in (confidence, scores))
    return CalibrationBin(low=number / BINS, high=(number + 1) / BINS, n=len(scores), **dict(
        zip(("confidence", "accuracy"), means, strict=True)))
