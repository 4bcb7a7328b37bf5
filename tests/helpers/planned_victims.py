"""Victims of two classes whose weak spots are known: what a control should find in them can be said beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class PlannedVictim:
    """The margin of class 0 is a function of the change (T, H, W, 3) to one clip, in grey levels."""

    def __init__(self, clip: np.ndarray, margin: Callable[[np.ndarray], float]) -> None:
        self._clip, self._margin = clip.astype(np.int16), margin
        self.asked: list[np.ndarray] = []

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.asked += list(clips.copy())
        margins = np.array([self._margin(clip - self._clip) for clip in clips])
        return np.stack([1 / (1 + np.exp(-margins)), 1 / (1 + np.exp(margins))], axis=1)


def weak_cells(clip: np.ndarray, cells: Sequence[tuple[int, int, int]], block: int = 2, cell: int = 4) -> PlannedVictim:
    """Each of some cells (block, row, column) that is changed takes its share of a margin of 2, and all of them a bit more."""

    def margin(change: np.ndarray) -> float:
        touched = [change[b * block:(b + 1) * block, row * cell:(row + 1) * cell, column * cell:(column + 1) * cell].any()
                   for b, row, column in cells]
        return 2.0 - 2.1 * float(np.mean(touched))

    return PlannedVictim(clip, margin)
