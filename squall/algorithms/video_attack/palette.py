"""A clip at every level of its distortion: put together by cells, and measured without a look at the pixels again."""

from __future__ import annotations

import numpy as np

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.distortions import find_distortion
from squall.algorithms.video_attack.grid import CellGrid
from squall.algorithms.video_attack.measures import flicker_of
from squall.platform.errors import DataError
from squall.platform.seeds import derive_seed


class Palette:
    """What an attack on cells can make of a clip. An occupancy is an integer array (blocks, rows, columns) of levels.

    Cells do not overlap, so lengths of the change are sums over cells; those of every cell and level are computed once, in
    whole numbers, and agree with `measures` exactly.
    """

    def __init__(self, clip: np.ndarray, config: AttackConfig, seed: int) -> None:
        """Distort `clip`, uint8 (T, H, W, 3); the same seed gives every attacker the same pixels.

        Raises:
            DataError: another shape or type (reason ``frame_format``), or a user's distortion failed.
            ConfigError: the grid does not divide the clip, or the budget is below one sweep.
        """
        if not (isinstance(clip, np.ndarray) and clip.dtype == np.uint8 and clip.ndim == 4 and clip.shape[3] == 3):
            found = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise DataError(f"attacks need clips of uint8 (T, H, W, 3), got {found}", reason="frame_format")
        self.clip = np.ascontiguousarray(clip)
        self.grid = config.grid(*clip.shape[:3])
        distortion = find_distortion(config.distortion)
        self.levels = distortion.levels(self.clip, derive_seed(seed, "distortion"), config.levels, config.severity)
        """uint8 (levels + 1, T, H, W, 3), the clean clip first."""
        deltas = self.levels.astype(np.int16) - self.clip
        starts = slice(config.block, None, config.block)
        ends = slice(config.block - 1, -1, config.block)
        self._squares = np.stack([_squares(delta, self.grid) for delta in deltas])
        self._steady = np.stack([_squares(np.diff(delta, axis=0), self.grid) for delta in deltas])
        self._edges = np.stack([[_squares(after[starts] - before[ends], self.grid) for after in deltas] for before in deltas])

    def compose(self, occupancy: np.ndarray) -> np.ndarray:
        """The clip with every cell at its level, uint8 (T, H, W, 3)."""
        composed = self.clip.copy()
        cells = self.grid.split(composed)
        for level in range(1, len(self.levels)):
            chosen = occupancy == level
            cells[chosen] = self.grid.split(self.levels[level])[chosen]
        return composed

    def l2(self, occupancy: np.ndarray) -> float:
        """Euclidean length of the change, pixels in [0, 1]."""
        return float(np.sqrt(self._frame_squares(occupancy).sum())) / 255

    def rms(self, occupancy: np.ndarray) -> float:
        """Root mean square of the change over all values, in [0, 1]."""
        return self.l2(occupancy) / float(np.sqrt(self.clip.size))

    def flicker(self, occupancy: np.ndarray) -> float:
        """Temporal coherence of the change, as `measures.flicker`."""
        by_frame = occupancy.repeat(self.grid.block, 0)
        jumps = np.take_along_axis(self._steady, by_frame[None, 1:].astype(np.intp), 0)[0].sum((1, 2))
        edges = self._edges[(occupancy[:-1], occupancy[1:], *np.indices(occupancy[1:].shape))].sum((1, 2))
        jumps[self.grid.block - 1::self.grid.block] = edges
        return flicker_of(jumps, self._frame_squares(occupancy))

    def strength(self) -> np.ndarray:
        """Float64 (blocks, rows, columns): length of the change in every cell at the highest level."""
        by_block = self._squares[-1].reshape(self.grid.shape[0], self.grid.block, *self.grid.shape[1:])
        return np.sqrt(by_block.sum(1)) / 255

    def _frame_squares(self, occupancy: np.ndarray) -> np.ndarray:
        by_frame = occupancy.repeat(self.grid.block, 0)
        return np.take_along_axis(self._squares, by_frame[None].astype(np.intp), 0)[0].sum((1, 2))


def _squares(delta: np.ndarray, grid: CellGrid) -> np.ndarray:
    """Squared lengths of changes (n, H, W, 3) by frame and place, int64 (n, rows, columns)."""
    _, rows, columns = grid.shape
    squares = (delta.astype(np.int32)**2).reshape(len(delta), rows, grid.cell, columns, grid.cell * 3)
    return squares.sum((2, 4), dtype=np.int64)
