"""Clips of known motion: what moves is where the mask says, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.motion import coverage, motion_clip, on_motion, share_on_motion
from squall.platform.embedded.scenes import Sprite
from squall.platform.errors import ConfigError

GRID = TokenGrid(8, 56, 56, 2, 8)


def changes(frames: np.ndarray) -> np.ndarray:
    """bool (N,): tokens of which a pixel differs from the first frame's."""
    return on_motion((np.abs(frames.astype(int) - frames[:1]).max(-1) > 8).astype(np.float32), GRID, 1e-9)


@pytest.mark.parametrize("surface", ["plain", "textured"])
def test_over_a_still_scene_only_masked_places_ever_change(surface: str) -> None:
    for seed in range(4):
        clip = motion_clip(GRID, seed, "still", surface)
        touched = on_motion_ever(clip.tokens)
        assert 0.02 < clip.tokens.mean() < 0.3
        assert (changes(clip.frames) <= touched).all()


def on_motion_ever(tokens: np.ndarray) -> np.ndarray:
    """Places that are next to motion at some time, at all times: a shape may cover a little of the next token."""
    places = tokens.reshape(GRID.times, GRID.rows, GRID.columns).any(0)
    padded = np.pad(places, 1)
    near = np.any([padded[r:r + GRID.rows, c:c + GRID.columns] for r in range(3) for c in range(3)], axis=0)
    return np.tile(near.ravel(), GRID.times)


def test_a_pan_moves_all_and_true_motion_stays_as_small() -> None:
    still, pan = (motion_clip(GRID, 5, camera) for camera in ("still", "pan"))
    assert changes(pan.frames)[GRID.places:].mean() > 2 * changes(still.frames)[GRID.places:].mean()
    assert pan.tokens.mean() < 0.3


def test_a_square_covers_the_tokens_that_it_is_drawn_on() -> None:
    cover = coverage([Sprite("square", "red", 0.05, (0.5, 0.5), (0.0, 0.0))], 8, 56)
    tokens = on_motion(cover, GRID).reshape(GRID.times, GRID.rows, GRID.columns)
    assert cover[0, 28, 28] == 1 and cover[0, 0, 0] == 0 and tokens.sum() == GRID.times and tokens[:, 3, 3].all()


def test_a_clip_follows_from_its_seed() -> None:
    first, again, other = (motion_clip(GRID, seed, "pan", "textured", objects=2) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.frames, other.frames)


def test_directions_come_equally_often_and_are_true() -> None:
    clips = [motion_clip(GRID, seed) for seed in range(24)]
    assert {clip.direction for clip in clips} == {"left", "right", "up", "down"}
    for clip in clips[:6]:
        where = np.argwhere(clip.tokens.reshape(GRID.times, GRID.rows, GRID.columns))
        first, last = (where[where[:, 0] == time].mean(0)[1:] for time in (0, GRID.times - 1))
        rows, columns = last - first
        assert clip.direction == (("down" if rows > 0 else "up") if abs(rows) > abs(columns) else
                                  ("right" if columns > 0 else "left"))


def test_the_share_on_motion_and_chance() -> None:
    motion = np.array([[True, False, False, False], [True, True, False, False]])
    assert share_on_motion(np.array([[0, 1], [0, 1]]), motion) == (0.75, 0.375)


def test_clips_that_are_not_square_are_refused() -> None:
    with pytest.raises(ConfigError, match="are square and RGB, not 32x64 of 3 channels"):
        motion_clip(TokenGrid(4, 32, 64, 2, 8), 0)
