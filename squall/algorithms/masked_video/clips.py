"""A bank of clips of known motion, drawn once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.motion import motion_clip
from squall.platform.clip_data import MotionBankConfig, Split
from squall.platform.embedded.scenes import DIRECTIONS
from squall.platform.seeds import derive_seed

CLASSES = tuple(sorted(DIRECTIONS))
"""Where the first shape goes."""


@dataclass(frozen=True)
class MotionBank:
    """Clips, where they move, and where to."""

    clips: np.ndarray
    """uint8 (n, C, T, H, W)."""
    motion: np.ndarray
    """bool (n, N)."""
    labels: np.ndarray
    """int64 (n,), positions in `CLASSES`."""
    parts: tuple[str, ...]
    """Cameras: `still` or `pan`."""


def motion_bank(config: MotionBankConfig, grid: TokenGrid, split: Split, count: int) -> MotionBank:
    """Draw clips, a function of the arguments; the first ones of a larger bank are those of a smaller one.

    Raises:
        ConfigError: frames are not square RGB.
    """
    cameras = [config.cameras[index % len(config.cameras)] for index in range(count)]
    drawn = [motion_clip(grid, derive_seed(config.seed, "bank", split, index), camera, config.surface, config.objects, split,
                         config.radius) for index, camera in enumerate(cameras)]
    clips = np.ascontiguousarray(np.moveaxis(np.stack([each.frames for each in drawn]), -1, 1))
    labels = np.array([CLASSES.index(each.direction) for each in drawn], np.int64)
    return MotionBank(clips, np.stack([each.tokens for each in drawn]), labels, tuple(cameras))
