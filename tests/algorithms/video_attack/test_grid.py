"""The grid: where its cells lie, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.video_attack.grid import CellGrid
from squall.platform.errors import ConfigError


def test_cells_cover_every_pixel_once() -> None:
    grid = CellGrid(6, 12, 8, block=3, cell=4)
    assert (grid.shape, grid.places, grid.count, grid.sweep) == ((2, 3, 2), 6, 12, 9)
    mask = grid.mask(np.arange(12).reshape(2, 3, 2))
    assert mask.shape == (6, 12, 8)
    assert np.bincount(mask.ravel()).tolist() == [3 * 4 * 4] * 12
    assert mask[2, 3, 3] == 0 and mask[3, 0, 0] == 6 and mask[0, 11, 7] == 5


def test_the_mask_keeps_booleans_and_refuses_another_shape() -> None:
    grid = CellGrid(4, 8, 8, block=2, cell=4)
    assert grid.mask(np.ones(grid.shape, bool)).dtype == bool
    with pytest.raises(ValueError, match=r"\(2, 2\); the grid has \(2, 2, 2\)"):
        grid.mask(np.ones((2, 2)))


def test_a_split_is_a_view_of_the_pixels_of_each_cell() -> None:
    grid = CellGrid(4, 8, 12, block=2, cell=4)
    clip = np.zeros((4, 8, 12, 3), np.uint8)
    grid.split(clip)[1, 0, 2] = 7
    assert (clip[2:4, 0:4, 8:12] == 7).all() and clip.sum() == 7 * 2 * 4 * 4 * 3


@pytest.mark.parametrize(("frames", "height", "block", "cell", "message"), [
    (3, 8, 4, 4, "block = 4 frames, and the clip has 3; choose block = 3 or fewer, or longer clips"),
    (6, 8, 4, 4, "block = 4 does not divide a clip of 6 frames of 8x8; allowed: 1, 2, 3, 6"),
    (8, 12, 4, 8, "cell = 8 does not divide a clip of 8 frames of 8x12; allowed: 1, 2, 4"),
    (8, 8, 0, 4, "expected whole numbers of 1 or more"),
])
def test_what_does_not_fit_is_refused(frames: int, height: int, block: int, cell: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CellGrid(frames, height, 8, block, cell)
