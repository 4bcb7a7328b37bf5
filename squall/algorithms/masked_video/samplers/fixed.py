"""Samplers that know nothing of a clip: random tokens, and tubes of the same places at all times."""

from __future__ import annotations

import torch

from squall.algorithms.masked_video.samplers.plans import MaskPlan, Proposal, Sampler, plan_of


class RandomSampler(Sampler):
    """Every set of tokens is as likely as any other."""

    def propose(self, clips: torch.Tensor, tokens: torch.Tensor) -> Proposal:
        return Proposal(torch.zeros(len(clips), self.grid.tokens, device=clips.device))


class TubeSampler(RandomSampler):
    """The same places at all times (VideoMAE, arXiv 2203.12602, section 3.3).

    Where times do not divide the number of visible tokens, one more place is visible at some times, drawn at random: so that
    every sampler shows the same number.
    """

    def plan(self, clips: torch.Tensor, tokens: torch.Tensor, visible: int, noise: torch.Tensor) -> MaskPlan:
        times = self.grid.times
        noise = noise.to(clips.device).unflatten(1, (times, -1))
        place = noise.sum(1).argsort(1).argsort(1)  # the rank of every place, to which all its times add alike
        time = noise.argsort(1).argsort(1)  # and of a place's times
        order = (place[:, None] * times + time).flatten(1)
        action = order.topk(visible, dim=1, largest=False).indices
        return plan_of(self.propose(clips, tokens).repeated(len(noise) // len(clips)), action, exact=False)
