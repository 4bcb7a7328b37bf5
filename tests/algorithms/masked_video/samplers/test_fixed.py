"""Random tokens and tubes."""

from __future__ import annotations

import math

import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.fixed import RandomSampler, TubeSampler
from squall.algorithms.masked_video.samplers.plans import MaskPlan
from squall.algorithms.masked_video.subsets import gumbel_noise

GRID = TokenGrid(8, 16, 16, 2, 4)  # 4 times of 16 places


def plan(kind: type, visible: int, clips: int = 400) -> MaskPlan:
    noise = gumbel_noise(clips, 64, torch.Generator().manual_seed(0))
    return kind(GRID).plan(torch.zeros(clips, 3, 8, 16, 16), torch.zeros(clips, 64, 1), visible, noise)


def test_random_masks_show_every_token_equally_often() -> None:
    made = plan(RandomSampler, 16)
    shares = torch.bincount(made.visible.flatten(), minlength=64) / 400
    assert (shares - 0.25).abs().max() < 0.09
    assert torch.allclose(made.log_probability, torch.tensor(-sum(math.log(64 - i) for i in range(16))))


def test_a_tube_shows_the_same_places_at_all_times() -> None:
    made = plan(TubeSampler, 12)
    shown = torch.zeros(400, 64).scatter(1, made.visible, 1).unflatten(1, (4, 16))
    assert (shown == shown[:, :1]).all() and (shown.sum((1, 2)) == 12).all()
    assert ((shown[:, 0].mean(0) - 3 / 16).abs() < 0.08).all() and made.log_probability is None


def test_what_times_do_not_divide_is_shown_at_any_time_equally_often() -> None:
    made = plan(TubeSampler, 14, clips=4000)
    shown = torch.zeros(4000, 64).scatter(1, made.visible, 1).unflatten(1, (4, 16)).sum(2)
    assert (shown.sum(1) == 14).all()
    assert ((shown - 3).mean(0) - 0.5).abs().max() < 0.04  # one place more, at two of four times; five standard errors


def test_what_times_do_not_divide_is_shown_at_one_more_place() -> None:
    shown = torch.zeros(400, 64).scatter(1, plan(TubeSampler, 14).visible, 1).unflatten(1, (4, 16)).sum(1)
    assert (shown.sort(1, descending=True).values[:, :5] == torch.tensor([4, 4, 4, 2, 0])).all()
