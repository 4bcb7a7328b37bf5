"""How much an attack changed a clip, and how visibly. Pixels are in [0, 1] here."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from squall.algorithms.video_attack.grid import CellGrid

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Measures:
    """Distances between a clean clip and a changed one."""

    l2: float
    """Euclidean length of the change."""
    linf: float
    """Largest change of a value."""
    mean_abs: float
    """Mean change of a value; SVA (arXiv 2001.03754) calls it MAP."""
    ssim: float
    """Structural similarity, mean over the frames; 1 is equal."""
    cells: int
    """Cells of the grid in which a pixel changed."""
    frames: int
    """Frames in which a pixel changed."""
    flicker: float
    """Temporal coherence of the change as `flicker` measures it; 0 is a change that stands still."""


def measure(clean: np.ndarray, changed: np.ndarray, grid: CellGrid) -> Measures:
    """All distances between two uint8 clips (T, H, W, 3). Raises ValueError where their shapes differ."""
    if clean.shape != changed.shape:
        raise ValueError(f"clips of shapes {clean.shape} and {changed.shape}")
    delta = changed.astype(np.int32) - clean
    touched = (delta != 0).any(-1)
    size = np.abs(delta)
    return Measures(
        l2=float(np.sqrt((delta**2).sum(dtype=np.int64))) / 255,
        linf=float(size.max()) / 255,
        mean_abs=float(size.mean()) / 255,
        ssim=ssim(clean, changed),
        cells=int(grid.split(touched).any((3, 4, 5)).sum()),
        frames=int(touched.any((1, 2)).sum()),
        flicker=flicker(delta),
    )


def flicker(delta: np.ndarray) -> float:
    """How much a change (T, H, W, 3) differs from frame to frame, whatever its size.

    The mean of |delta_t - delta_(t-1)| / |delta| over pairs of neighbouring frames of which one is changed; 0 for no change.
    """
    delta = delta.astype(np.int32)
    jumps = (np.diff(delta, axis=0) ** 2).sum((1, 2, 3), dtype=np.int64)
    return flicker_of(jumps, (delta**2).sum((1, 2, 3), dtype=np.int64))


def flicker_of(jumps: np.ndarray, squares: np.ndarray) -> float:
    """The same from the squared lengths of the T - 1 differences between frames and of the change in T frames."""
    changed = squares > 0
    pairs = changed[1:] | changed[:-1]
    if not pairs.any():
        return 0.0
    return float(np.sqrt(jumps[pairs]).mean() / np.sqrt(squares.sum()))


def ssim(clean: np.ndarray, changed: np.ndarray) -> float:
    """Structural similarity of the luma of uint8 clips (T, H, W, 3), mean over pixels and frames.

    As in Wang et al. 2004: windows of 11 x 11 weighted by a Gaussian of deviation 1.5, and only those that lie within the
    picture. Smaller pictures get the largest odd window that fits.
    """
    return float(np.mean([_ssim(one, other) for one, other in zip(clean, changed, strict=True)]))


def _ssim(clean: np.ndarray, changed: np.ndarray) -> float:
    x, y = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64) for frame in (clean, changed))
    if np.array_equal(x, y):
        return 1.0
    side = min(_WINDOW, (min(x.shape) - 1) // 2 * 2 + 1)
    edge = side // 2
    inside = slice(edge, x.shape[0] - edge), slice(edge, x.shape[1] - edge)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (side, side), _SIGMA)[inside]

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y, covariance = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((similarity / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))).mean())
