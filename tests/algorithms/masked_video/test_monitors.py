"""Monitors: what collapse, blindness and motion look like in figures."""

from __future__ import annotations

import math

import pytest
import torch

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.autoencoder import Reconstruction
from squall.algorithms.masked_video.monitors import CollapseConfig, MaskMonitor
from squall.algorithms.masked_video.samplers.plans import Proposal, plan_of
from squall.algorithms.masked_video.subsets import draw, gumbel_noise

TOKENS, DRAWN = 40, 8


def figures_of(logits: torch.Tensor, motion: torch.Tensor | None = None, losses: torch.Tensor | None = None
               ) -> dict[str, float]:
    clips, half = len(logits), len(logits) // 2
    action = draw(logits, gumbel_noise(clips, TOKENS, torch.Generator().manual_seed(0)), DRAWN)
    monitor = MaskMonitor(TOKENS, torch.device("cpu"))
    for rows in (slice(0, half), slice(half, clips)):
        plan = plan_of(Proposal(logits[rows]), action[rows])
        token_losses = torch.ones(half, TOKENS) if losses is None else losses[rows]
        made = Reconstruction(torch.zeros(1), torch.zeros(1), token_losses.gather(1, plan.masked))
        monitor.add(plan, made, None if motion is None else motion[rows])
    return monitor.figures(clips, Share(), CollapseConfig(), motion is not None)


def test_drawing_at_random_is_no_collapse() -> None:
    figures = figures_of(torch.zeros(200, TOKENS))
    assert figures["entropy"] == pytest.approx(math.log(TOKENS), rel=1e-5)
    assert figures["entropy_share"] == pytest.approx(1, rel=1e-5) == figures["sequence_entropy_share"]
    assert figures["top_mass"] == pytest.approx(DRAWN / TOKENS) and abs(figures["overlap"]) < 0.02
    assert figures["collapsed"] == 0 and "motion/sampled" not in figures


def test_always_the_same_tokens_is_a_collapse_in_both_senses() -> None:
    figures = figures_of((torch.arange(TOKENS) * 20.0).expand(50, TOKENS))
    assert figures["sequence_entropy_share"] < 0.01 and figures["overlap"] == pytest.approx(1) and figures["collapsed"] == 1


def test_a_sampler_that_knows_what_it_wants_in_every_clip_is_not_collapsed_by_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(100, TOKENS, generator=generator).argsort(1) < 12
    figures = figures_of(6.0 * wanted)
    assert figures["top_mass"] > 0.6 and abs(figures["overlap"]) < 0.05 and figures["collapsed"] == 0


def test_a_sampler_that_does_not_look_is_blind_however_wide_it_draws() -> None:
    figures = figures_of(9.0 * (torch.arange(TOKENS) < DRAWN).expand(50, TOKENS))
    assert figures["sequence_entropy_share"] > 0.3 and figures["overlap"] > 0.9 and figures["collapsed"] == 1


def test_motion_is_counted_among_drawn_visible_and_all_tokens() -> None:
    motion = torch.arange(TOKENS).expand(20, TOKENS) < 4
    figures = figures_of(30.0 * motion, motion, losses=torch.where(motion, 3.0, 0.5))
    assert figures["motion/sampled"] == figures["motion/visible"] == 4 / DRAWN and figures["motion/chance"] == 0.1
    assert figures["loss/still"] == 0.5 and "loss/moving" not in figures  # no masked token moves
    assert figures_of(torch.zeros(20, TOKENS), motion, losses=torch.where(motion, 3.0, 0.5))["loss/moving"] == 3


def test_masks_of_the_same_clip_are_no_overlap_between_clips() -> None:
    wanted = torch.arange(TOKENS) // DRAWN == torch.arange(5)[:, None]  # every clip has tokens of its own
    action = draw(30.0 * wanted, torch.zeros(5, TOKENS), DRAWN).repeat_interleave(2, 0)
    monitor = MaskMonitor(TOKENS, torch.device("cpu"), masks=2)
    plan = plan_of(Proposal((30.0 * wanted).repeat_interleave(2, 0)), action)
    monitor.add(plan, Reconstruction(torch.zeros(1), torch.zeros(1), torch.ones_like(plan.masked, dtype=torch.float)))
    figures = monitor.figures(5, Share(), CollapseConfig(), False)
    assert figures["overlap"] == pytest.approx((0 - DRAWN / TOKENS) / (1 - DRAWN / TOKENS)) and figures["loss"] == 1
