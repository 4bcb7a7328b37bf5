"""A victim that looks at one spot of some frames of a clip, so that every test knows what an attack has to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAMES, SIDE, BLOCK, CELL = 8, 32, 2, 8
ROW, COLUMN, BLOCKS = 1, 2, (1, 2)
PLACE = ROW * (SIDE // CELL) + COLUMN


@dataclass(frozen=True)
class Spot:
    """Two classes: 0 while the cell (row 1, column 2) of frames 2 to 5 looks as in `clip`, 1 once it has changed enough."""

    clip: np.ndarray
    """uint8 (8, 32, 32, 3), to be cut into cells of 2 frames and 8 pixels."""
    limit: float = 40.0
    """Mean change of a value in the spot, in grey levels, at which both classes are as likely; noise makes it 80."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        seen = (slice(None), slice(2, 6), slice(8, 16), slice(16, 24))
        change = np.abs(clips[seen].astype(float) - self.clip[None][seen]).mean((1, 2, 3, 4))
        label = 1 / (1 + np.exp((change - self.limit) / 8))
        return np.stack([label, 1 - label], 1)


def noise_clip(seed: int = 0, frames: int = FRAMES, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (frames, height, width, 3), np.uint8)
