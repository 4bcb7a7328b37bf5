"""A bank is a function of its seed, and a smaller one is the beginning of a larger one."""

from __future__ import annotations

import numpy as np

from squall.algorithms.masked_video.clips import CLASSES, motion_bank
from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.motion import motion_clip
from squall.platform.clip_data import MotionBankConfig
from squall.platform.seeds import derive_seed

GRID = TokenGrid(4, 32, 32, 2, 8)


def test_clips_take_the_cameras_in_turn_and_do_not_depend_on_how_many_there_are() -> None:
    bank, few = (motion_bank(MotionBankConfig(), GRID, "test", count) for count in (6, 3))
    assert bank.clips.shape == (6, 3, 4, 32, 32) and bank.motion.shape == (6, 32) and bank.parts == ("still", "pan") * 3
    assert np.array_equal(bank.clips[:3], few.clips) and np.array_equal(bank.motion[:3], few.motion)
    own = motion_clip(GRID, derive_seed(0, "bank", "test", 1), "pan", split="test")
    assert np.array_equal(np.moveaxis(bank.clips[1], 0, -1), own.frames) and CLASSES[bank.labels[1]] == own.direction
    others = [motion_bank(MotionBankConfig(seed=1), GRID, "test", 2), motion_bank(MotionBankConfig(), GRID, "train", 2)]
    assert not any(np.array_equal(other.clips, bank.clips[:2]) for other in others)
