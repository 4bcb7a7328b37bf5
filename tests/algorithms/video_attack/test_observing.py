"""What agents see: features that point at what moves and what mattered, alike for clips of any size."""

from __future__ import annotations

import numpy as np
import pytest
from spot_victim import noise_clip

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.observing import (
    SPATIAL_FEATURES,
    TEMPORAL_FEATURES,
    Scene,
    Touches,
    spatial_view,
    temporal_view,
)
from squall.algorithms.video_attack.palette import Palette


def moving_square() -> np.ndarray:
    """Grey, 8 frames of 32 x 48; in frames 4 to 7 a bright square moves within the cell at row 1, column 4."""
    clip = np.full((8, 32, 48, 3), 100, np.uint8)
    for frame in range(4, 8):
        clip[frame, 8:14, 32 + frame % 2:38 + frame % 2] = 250
    return clip


def views(palette: Palette, occupancy: np.ndarray, touches: tuple[Touches, Touches], step: int) -> dict[str, np.ndarray]:
    """Every feature of both agents by name."""
    scene, scalars = Scene(palette), np.array([0.9, 0.8, 0.5, 0.25])
    spatial = spatial_view(scene, occupancy, 2, touches[0], step, scalars)
    temporal = temporal_view(scene, occupancy, 2, touches[1], step, scalars)
    assert spatial.dtype == temporal.dtype == np.float32
    return {f"spatial {name}": spatial[i] for i, name in enumerate(SPATIAL_FEATURES)} | {
        f"temporal {name}": temporal[i] for i, name in enumerate(TEMPORAL_FEATURES)}


def test_features_of_the_pixels_point_at_what_moves_and_stands_out() -> None:
    palette = Palette(moving_square(), AttackConfig(block=2, cell=8, levels=2), seed=0)
    seen = views(palette, np.zeros(palette.grid.shape, np.int8), (Touches(24), Touches(4)), 0)
    for name in ("motion", "texture", "contrast"):
        assert np.unravel_index(seen[f"spatial {name}"].argmax(), (4, 6)) == (1, 4)
        assert seen[f"spatial {name}"].max() == 1
    assert seen["temporal motion"].argmax() == 2 and seen["temporal motion"][0] == 0
    assert seen["spatial row"][:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert seen["temporal position"].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert (seen["spatial p_label"] == np.float32(0.9)).all() and (seen["temporal spent"] == 0.25).all()


def test_occupancy_and_distance_follow_the_cells_that_are_on() -> None:
    palette = Palette(moving_square(), AttackConfig(block=2, cell=8, levels=2), seed=0)
    occupancy = np.zeros(palette.grid.shape, np.int8)
    seen = views(palette, occupancy, (Touches(24), Touches(4)), 0)
    assert seen["temporal distance"].tolist() == [1, 1, 1, 1]
    occupancy[1, 2, 3] = 2
    seen = views(palette, occupancy, (Touches(24), Touches(4)), 0)
    assert seen["spatial occupancy"][2, 3] == 0.25 and seen["spatial occupancy"].sum() == 0.25
    assert seen["temporal occupancy"].tolist() == pytest.approx([0, 1 / 24, 0, 0])
    assert seen["temporal distance"].tolist() == [0.25, 0, 0.25, 0.5]
    occupancy[3, 0, 0] = 1
    assert views(palette, occupancy, (Touches(24), Touches(4)), 0)["temporal distance"].tolist() == [0.25, 0, 0.25, 0]


def test_touches_remember_what_followed_and_how_long_ago() -> None:
    touches = Touches(3)
    first, second = np.array([True, False, False]), np.array([False, True, False])
    touches.note(first, second, lost=2.0, step=4)
    assert touches.sensitivity.tolist() == pytest.approx([np.tanh(1), -np.tanh(1), 0])
    touches.note(second, ~second & ~first, lost=0.0, step=6)
    assert touches.sensitivity[1] == 0
    assert touches.recency(7).tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 2])


def test_a_touch_of_everything_says_nothing_about_any() -> None:
    touches = Touches(3)
    touches.note(np.ones(3, bool), np.zeros(3, bool), lost=5.0, step=1)
    assert not touches.sensitivity.any() and not touches.recency(1).any()


@pytest.mark.parametrize(("shape", "block"), [((1, 8, 8), 1), ((12, 16, 40), 3)])
def test_clips_of_any_size_and_without_motion_are_seen_within_the_range(shape: tuple[int, int, int], block: int) -> None:
    for clip in (noise_clip(0, *shape), np.zeros((*shape, 3), np.uint8)):
        palette = Palette(clip, AttackConfig(block=block, cell=8, levels=2), seed=0)
        blocks = palette.grid.shape[0]
        seen = views(palette, np.full(palette.grid.shape, 2, np.int8), (Touches(palette.grid.places), Touches(blocks)), 0)
        assert len(seen) == len(SPATIAL_FEATURES) + len(TEMPORAL_FEATURES)
        assert all(np.isfinite(plane).all() and np.abs(plane).max() <= 1 for plane in seen.values())
