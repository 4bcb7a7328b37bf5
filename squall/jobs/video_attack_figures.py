"""Figures of attacks on clips with intervals over clips: a clip's value is the mean over its seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from squall.algorithms.bootstrap import Bootstrap
from squall.platform.video_attack_card import Figure

RESAMPLES, SEED = 4000, 0
"""Of the bootstrap: the same rows always give the same card."""
DIGITS = 6
UNKNOWN = Figure(mean=None, low=None, high=None)


@dataclass(frozen=True)
class _Pending:
    name: str
    low: float
    high: float
    clips: int
    seeds: tuple[float | None, ...]

    def figure(self, mean: float, low: float, high: float) -> Figure:
        if not self.clips:
            return UNKNOWN.model_copy(update={"seeds": self.seeds})
        known = self.clips > 1  # one clip says nothing about others
        scale = max(abs(self.low), abs(self.high))
        return Figure(mean=rounded(mean * scale), low=rounded(max(low * scale, self.low)) if known else None,
                      high=rounded(min(high * scale, self.high)) if known else None, seeds=self.seeds)


class ClipFigures:
    """Figures over N clips, all from the same draws of clips, so that what follows from two of them is paired."""

    def __init__(self) -> None:
        self._bootstrap, self._pending = Bootstrap(), list[_Pending]()

    def add(self, name: str, values: np.ndarray, counted: np.ndarray, span: tuple[float, float]) -> None:
        """Add a figure: the mean over clips of each clip's mean over the seeds that count.

        Args:
            values: (S, N).
            counted: bool (S, N); clips without a seed that counts are left out.
            span: the least and the most that a value may be. Where all clips are equal, the interval is a share of it.
        """
        per_seed = tuple(rounded(own[which].mean()) if which.any() else None
                         for own, which in zip(values, counted, strict=True))
        number = counted.sum(0)
        means = (values * counted).sum(0) / np.maximum(number, 1)
        self.add_means(name, means, number > 0, span, per_seed)

    def add_means(self, name: str, means: np.ndarray, counted: np.ndarray, span: tuple[float, float],
                  seeds: tuple[float | None, ...] = ()) -> None:
        """The same from each clip's mean, (N,), where it is counted, bool (N,)."""
        self.add_ratio(name, np.where(counted, means, 0.0), counted.astype(np.float64), span, seeds)

    def add_ratio(self, name: str, numerators: np.ndarray, denominators: np.ndarray, span: tuple[float, float],
                  seeds: tuple[float | None, ...] = ()) -> None:
        """One sum over clips divided by another, (N,) each; a clip whose denominator is 0 does not count."""
        scale = max(map(abs, span)) or 1.0
        self._bootstrap.add(numerators[:, None] / scale, denominators[:, None], np.ones(1))
        self._pending.append(_Pending(name, *span, int(np.count_nonzero(denominators)), seeds))

    def draw(self) -> dict[str, Figure]:
        """All figures, by name."""
        if not any(one.clips for one in self._pending):
            return {one.name: one.figure(math.nan, math.nan, math.nan) for one in self._pending}
        draws = self._bootstrap.draw(RESAMPLES, SEED)
        bounds = zip(self._pending, draws.values, *draws.interval(), strict=True)
        return {one.name: one.figure(mean, low, high) for one, mean, low, high in bounds}


def rounded(value: float) -> float | None:
    """To six digits, below which sums in another order may differ; None for NaN."""
    return round(float(value), DIGITS) + 0.0 if math.isfinite(value) else None
