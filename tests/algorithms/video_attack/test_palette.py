"""The palette: pixels of an occupancy, and lengths that agree with those of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from spot_victim import noise_clip

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.measures import measure
from squall.algorithms.video_attack.palette import Palette
from squall.platform.errors import ConfigError, DataError


@pytest.mark.parametrize(("block", "levels", "distortion"), [(1, 1, "noise"), (2, 3, "gaussian_noise"), (8, 2, "blur")])
def test_lengths_are_those_of_the_pixels(block: int, levels: int, distortion: str) -> None:
    config = AttackConfig(block=block, cell=8, levels=levels, distortion=distortion)
    palette = Palette(noise_clip(), config, seed=2)
    rng = np.random.default_rng(0)
    for _ in range(4):
        occupancy = rng.integers(0, levels + 1, palette.grid.shape).astype(np.int8) * (rng.random(palette.grid.shape) < 0.5)
        found = measure(palette.clip, palette.compose(occupancy), palette.grid)
        assert palette.l2(occupancy) == pytest.approx(found.l2, rel=1e-12)
        assert palette.flicker(occupancy) == pytest.approx(found.flicker, rel=1e-12)
        assert palette.rms(occupancy) == pytest.approx(found.l2 / np.sqrt(palette.clip.size))
        assert found.cells == (occupancy > 0).sum()


def test_cells_that_are_on_show_distorted_pixels_and_the_others_clean_ones() -> None:
    palette = Palette(noise_clip(), AttackConfig(block=2, cell=8, levels=2), seed=2)
    occupancy = np.random.default_rng(1).integers(0, 3, palette.grid.shape)
    mask = palette.grid.mask(occupancy)[..., None]
    expected = np.where(mask == 2, palette.levels[2], np.where(mask == 1, palette.levels[1], palette.clip))
    assert np.array_equal(palette.compose(occupancy), expected)


def test_the_strength_of_a_cell_is_what_it_alone_costs() -> None:
    palette = Palette(noise_clip(), AttackConfig(block=2, cell=8), seed=2)
    alone = np.zeros(palette.grid.shape, np.int8)
    alone[3, 1, 2] = 1
    assert palette.strength()[3, 1, 2] == pytest.approx(palette.l2(alone))


@pytest.mark.parametrize("clip", [np.zeros((8, 32, 32, 3), np.float32), np.zeros((8, 32, 32), np.uint8), "clip.mp4"])
def test_other_arrays_than_clips_are_refused(clip: object) -> None:
    with pytest.raises(DataError, match=r"attacks need clips of uint8 \(T, H, W, 3\), got"):
        Palette(clip, AttackConfig(block=2, cell=8), seed=0)


def test_a_clip_that_the_grid_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="cell = 12 does not divide a clip of 8 frames of 32x32"):
        Palette(noise_clip(), AttackConfig(cell=12), seed=0)
