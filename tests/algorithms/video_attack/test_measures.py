"""Distances between clips, against numbers worked out by hand or by the formula."""

from __future__ import annotations

import numpy as np
import pytest
from spot_victim import noise_clip

from squall.algorithms.video_attack.grid import CellGrid
from squall.algorithms.video_attack.measures import flicker, measure, ssim

CLIP = noise_clip()
GRID = CellGrid(8, 32, 32, block=2, cell=8)


def test_no_change_measures_nothing() -> None:
    found = measure(CLIP, CLIP, GRID)
    assert (found.l2, found.linf, found.mean_abs, found.ssim, found.cells, found.frames, found.flicker) == (0, 0, 0, 1, 0, 0, 0)


def test_a_change_of_two_pixels_is_measured_exactly() -> None:
    changed = CLIP.copy()
    changed[1, 7, 7, 0] += 51
    changed[1, 8, 7, 2] -= 51
    found = measure(CLIP, changed, GRID)
    assert found.linf == pytest.approx(0.2) and found.l2 == pytest.approx(0.2 * np.sqrt(2))
    assert found.mean_abs == pytest.approx(0.4 / CLIP.size)
    assert (found.cells, found.frames) == (2, 1)
    assert found.flicker == pytest.approx(1.0)  # it comes and goes: both jumps are as long as the change


def test_flicker_tells_a_still_change_from_one_that_alternates() -> None:
    still = np.ones((4, 2, 2, 3), int)
    alternating = still * np.array([1, -1, 1, -1]).reshape(4, 1, 1, 1)
    assert flicker(still) == 0 and flicker(np.zeros_like(still)) == 0
    assert flicker(alternating) == pytest.approx(2 / np.sqrt(4))
    assert flicker(5 * alternating) == pytest.approx(flicker(alternating))


def test_pairs_of_frames_without_a_change_do_not_count() -> None:
    late = np.zeros((6, 2, 2, 3), int)
    late[4:] = 3
    assert flicker(late) == pytest.approx((1 / np.sqrt(2) + 0) / 2)


def test_ssim_of_one_window_is_the_formula() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 256, (2, 11, 11)).astype(np.uint8)
    weight = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weight = np.outer(weight, weight) / weight.sum() ** 2

    def mean(values: np.ndarray) -> float:
        return float((weight * values).sum())

    a, b = x.astype(float), y.astype(float)
    covariance, spread = mean(a * b) - mean(a) * mean(b), mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    expected = ((2 * mean(a) * mean(b) + 6.5025) * (2 * covariance + 58.5225)
                / ((mean(a) ** 2 + mean(b) ** 2 + 6.5025) * (spread + 58.5225)))
    one, other = (np.repeat(picture[None, ..., None], 3, axis=3) for picture in (x, y))
    assert ssim(one, other) == pytest.approx(expected, abs=1e-9)
    assert ssim(np.concatenate([one, one]), np.concatenate([other, one])) == pytest.approx((expected + 1) / 2, abs=1e-9)


def test_small_pictures_have_a_similarity_too() -> None:
    small = noise_clip(1, 2, 4, 6)
    assert -1 <= ssim(small, 255 - small) < 0.5


def test_clips_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clips of shapes"):
        measure(CLIP, CLIP[:4], GRID)
