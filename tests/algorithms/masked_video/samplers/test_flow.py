"""Flow finds what moves, and a pan of the camera is no motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.motion import motion_clip, share_on_motion
from squall.algorithms.masked_video.samplers.flow import FlowConfig, FlowSampler
from squall.algorithms.masked_video.subsets import gumbel_noise

GRID = TokenGrid(8, 56, 56, 2, 8)


def found(camera: str, **keys: object) -> tuple[float, float]:
    made = [motion_clip(GRID, seed, camera) for seed in range(8)]
    clips = torch.from_numpy(np.stack([each.frames for each in made])).permute(0, 4, 1, 2, 3).float() / 255
    noise = gumbel_noise(8, GRID.tokens, torch.Generator().manual_seed(0))
    plan = FlowSampler(GRID, FlowConfig(sharpness=2.0, **keys)).plan(clips, torch.zeros(8, GRID.tokens, 1), 20, noise)
    return share_on_motion(plan.action.numpy(), np.stack([each.tokens for each in made]))


def test_it_finds_motion_over_a_still_scene() -> None:
    share, chance = found("still")
    assert chance < 0.2 and share > 3 * chance


def test_over_a_pan_it_finds_motion_when_the_camera_is_taken_off() -> None:
    (share, chance), (blind, _) = found("pan"), found("pan", less_camera=False)
    assert share > 2 * chance and share > blind


@pytest.mark.parametrize("shape", [(1, 2, 16, 24), (3, 1, 32, 32)])
def test_grey_clips_and_single_frames_have_flow_too(shape: tuple[int, ...]) -> None:
    channels, frames, height, width = shape
    grid = TokenGrid(frames, height, width, 1, 8, channels)
    logits = FlowSampler(grid, FlowConfig()).propose(torch.rand(2, *shape), torch.zeros(2, 1, 1)).logits
    assert logits.shape == (2, grid.tokens) and logits.isfinite().all()
