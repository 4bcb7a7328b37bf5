"""Tokens of clips: counts, the order of pixels, and clips and ratios that do not go."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.errors import ConfigError


def test_a_clip_of_the_paper_has_1568_tokens() -> None:
    grid = TokenGrid(16, 224, 224)
    assert (grid.times, grid.places, grid.tokens, grid.values) == (8, 196, 1568, 1536)
    assert [grid.visible(ratio) for ratio in (0.85, 0.90, 0.95)] == [235, 156, 78]


def test_a_ratio_whose_float_is_a_little_off_keeps_its_token() -> None:
    assert TokenGrid(8, 20, 20, 2, 4).visible(0.9) == 10  # 100 * (1 - 0.9) is 9.999999999999998


def test_cut_numbers_tokens_by_time_row_and_column_and_join_undoes_it() -> None:
    grid = TokenGrid(4, 8, 12, tubelet=2, patch=4)
    clips = torch.rand(2, 3, 4, 8, 12)
    pixels = grid.cut(clips)
    assert pixels.shape == (2, 12, 32, 3)
    time, row, column = 1, 0, 2
    token = clips[1, :, 2:4, 0:4, 8:12].permute(1, 2, 3, 0).reshape(32, 3)
    assert torch.equal(pixels[1, (time * grid.rows + row) * grid.columns + column], token)
    assert torch.equal(grid.join(pixels), clips) and torch.equal(grid.join(pixels.flatten(2)), clips)


@pytest.mark.parametrize(("sizes", "message"), [
    ((1, 32, 32), "clips of 1 frames of 32x32 pixels are smaller than a tubelet of 2 frames of 16x16 pixels"),
    ((4, 32, 8), "clips of 4 frames of 32x8 pixels are smaller than a tubelet"),
    ((4, 40, 32), "are not divided by a tubelet of 2 frames of 16x16 pixels"),
    ((5, 32, 32), "frames must be a multiple of tubelet"),
])
def test_clips_that_tubelets_do_not_fit_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenGrid(*sizes)


@pytest.mark.parametrize(("ratio", "none"), [(0.0, "masked"), (0.99, "visible"), (1.0, "visible"), (-0.5, "masked")])
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float, none: str) -> None:
    with pytest.raises(ConfigError, match=f"a mask ratio of {ratio} leaves no {none} token of 8; take one from 0.125 to 0.875"):
        TokenGrid(4, 32, 32).visible(ratio)


def test_clips_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"clips of shape \(2, 4, 3, 32, 32\); expected .* = \(any, 3, 4, 32, 32\)"):
        TokenGrid(4, 32, 32).cut(torch.zeros(2, 4, 3, 32, 32))
