"""What the agents see: the attacker's own clip, what it did to it, and what past queries answered.

All features are the same for clips of any size and content: those of pixels are relative to the clip's largest. So a policy can
learn across clips. Everything lies in [-1, 1].
"""

from __future__ import annotations

import numpy as np

from squall.algorithms.video_attack.palette import Palette

SCALARS = ("p_label", "margin", "log_odds", "spent")
"""Of the last answer, and the share of the queries spent; the same value all over."""
SPATIAL_FEATURES = ("motion", "texture", "contrast", "change", "row", "column", "occupancy", "sensitivity", "recency", *SCALARS)
"""Of every place."""
TEMPORAL_FEATURES = ("motion", "texture", "change", "position", "occupancy", "distance", "sensitivity", "recency", *SCALARS)
"""Of every block."""
LOW, HIGH = -1.0, 1.0


class Touches:
    """What followed when a place, or a block, was last touched."""

    def __init__(self, count: int) -> None:
        self.sensitivity = np.zeros(count)
        """tanh of half the label's log odds that were lost with it on; 0 where it never was touched."""
        self._step = np.full(count, -1)

    def note(self, added: np.ndarray, removed: np.ndarray, lost: float, step: int) -> None:
        """`lost` log odds came of some (bool masks) being added and some removed. A touch of all tells none apart."""
        for where, value in ((removed & ~added, -lost), (added, lost)):
            if where.any() and not (len(where) > 1 and where.all()):
                self.sensitivity[where] = np.tanh(value / 2)
                self._step[where] = step

    def recency(self, step: int) -> np.ndarray:
        """1 / (1 + steps since the touch); 0 for never."""
        return np.where(self._step < 0, 0.0, 1 / (1 + np.maximum(step - self._step, 0)))


class Scene:
    """The features of a clip's pixels, which no query changes."""

    def __init__(self, palette: Palette) -> None:
        grid, clip = palette.grid, palette.clip
        blocks, rows, columns = grid.shape
        light = clip.mean(-1, dtype=np.float32)
        cells = grid.split(light)
        motion = _cell_motion(palette)
        texture, change = cells.std((3, 4, 5)), palette.strength()
        colours = grid.split(clip).mean((0, 3, 4, 5), dtype=np.float32)
        contrast = np.linalg.norm(colours - colours.mean((0, 1)), axis=-1)
        row, column = np.meshgrid(_along(rows), _along(columns), indexing="ij")
        self.spatial = np.stack([*(_relative(plane.mean(0)) for plane in (motion, texture)), _relative(contrast),
                                 _relative(change.mean(0)), row, column])
        """(6, rows, columns): the first of `SPATIAL_FEATURES`."""
        self.temporal = np.stack([*(_relative(plane.mean((1, 2))) for plane in (motion, texture, change)), _along(blocks)])
        """(4, blocks): the first of `TEMPORAL_FEATURES`."""


def spatial_view(scene: Scene, occupancy: np.ndarray, levels: int, touches: Touches, step: int, scalars: np.ndarray
                 ) -> np.ndarray:
    """float32 (features, rows, columns), as `SPATIAL_FEATURES` names them."""
    shape = occupancy.shape[1:]
    own = [occupancy.mean(0) / levels, touches.sensitivity.reshape(shape), touches.recency(step).reshape(shape)]
    return _joined(scene.spatial, own, scalars)


def temporal_view(scene: Scene, occupancy: np.ndarray, levels: int, touches: Touches, step: int, scalars: np.ndarray
                  ) -> np.ndarray:
    """float32 (features, blocks), as `TEMPORAL_FEATURES` names them; `distance` is that to the nearest block in use."""
    share = occupancy.mean((1, 2)) / levels
    numbers, used = np.arange(len(share)), np.flatnonzero(share)
    distance = np.abs(numbers[:, None] - used).min(1) / len(share) if len(used) else np.ones(len(share))
    return _joined(scene.temporal, [share, distance, touches.sensitivity, touches.recency(step)], scalars)


def _joined(fixed: np.ndarray, own: list[np.ndarray], scalars: np.ndarray) -> np.ndarray:
    everywhere = np.broadcast_to(scalars.reshape(-1, *(1,) * (fixed.ndim - 1)), (len(scalars), *fixed.shape[1:]))
    return np.concatenate([fixed, np.stack(own), everywhere]).clip(LOW, HIGH).astype(np.float32)


def _cell_motion(palette: Palette) -> np.ndarray:
    """Mean difference from the frame before, (blocks, rows, columns); the first frame has that of the second."""
    clip = palette.clip
    if len(clip) == 1:
        return np.zeros(palette.grid.shape)
    step = np.maximum(clip[1:], clip[:-1]) - np.minimum(clip[1:], clip[:-1])
    return palette.grid.split(np.concatenate([step[:1], step])).mean((3, 4, 5, 6), dtype=np.float32)


def _relative(values: np.ndarray) -> np.ndarray:
    return values / max(float(values.max()), 1e-6)


def _along(count: int) -> np.ndarray:
    """Centres of `count` equal parts of 0 to 1, as -1 to 1."""
    return (2 * np.arange(count) + 1) / count - 1
