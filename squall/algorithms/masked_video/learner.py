"""The learner of a sampler: a buffer of what it did and what came of it, and updates from that, for any number of workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.credit import RewardScale, clip_rewards, token_credit_loss
from squall.algorithms.masked_video.gradients import adamw, descend
from squall.algorithms.masked_video.ppo import (
    SamplerTrainingConfig,
    Surrogate,
    group_advantages,
    ppo_surrogate,
    reinforce_surrogate,
    value_loss,
)
from squall.algorithms.masked_video.samplers.config import SamplerConfig
from squall.algorithms.masked_video.samplers.learned import LearnedSampler
from squall.algorithms.masked_video.samplers.plans import MaskPlan, Proposal
from squall.algorithms.masked_video.subsets import categorical_log_probs, draw_log_probs, entropy

FIGURES = ("policy_loss", "value_loss", "entropy", "clipped", "ratio_deviation", "kl")
"""What an update tells: means over clips and epochs. `kl` estimates how far the sampler went from the one that acted, in nats a
draw (or action); `ratio_deviation` is the mean distance of ratios from 1."""


@dataclass(frozen=True)
class Experience:
    """What a sampler did with B clips, G masks each, and what came of it; nothing of it has a gradient."""

    tokens: torch.Tensor
    """(B, N, D)."""
    action: torch.Tensor
    """int64 (B, G, K)."""
    log_probs: torch.Tensor
    """(B, G, K), when it acted."""
    values: torch.Tensor
    """(B, G), when it acted; 0 without a critic."""
    masked: torch.Tensor
    """int64 (B, G, M)."""
    token_losses: torch.Tensor
    """(B, G, M)."""

    @classmethod
    def of(cls, tokens: torch.Tensor, plan: MaskPlan, token_losses: torch.Tensor) -> Experience:
        """Cut off from the graphs that made it; `tokens` are (B, N, D), plan and losses have G rows for each clip."""
        values, log_probs = plan.proposal.values, plan.log_probs
        assert log_probs is not None
        values = token_losses.new_zeros(len(token_losses)) if values is None else values
        parts = (plan.action, log_probs, values, plan.masked, token_losses)
        return cls(tokens.detach(), *(part.detach().unflatten(0, (len(tokens), -1)) for part in parts))

    def __getitem__(self, rows: slice) -> Experience:
        return Experience(*(getattr(self, each.name)[rows] for each in fields(self)))

    def __len__(self) -> int:
        return len(self.tokens)


class SamplerLearner:
    """Remembers, and updates the sampler when the buffer is full."""

    def __init__(self, sampler: LearnedSampler, config: SamplerConfig, training: SamplerTrainingConfig, batch_clips: int,
                 total_updates: int, share: Share | None = None, microbatch_clips: int = 0,
                 precision: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """
        Args:
            batch_clips: clips of a training step, over all workers; all have as many masks.
            total_updates: for the learning rate's schedule.
            microbatch_clips: clips at a time; 0 is all. The result is the same to rounding.
            precision: a context for forward passes, the one in which the sampler acted.
        """
        self.sampler, self.config, self.training = sampler, config, training
        self.batch_clips, self.total_updates, self.share = batch_clips, total_updates, share or Share()
        self.microbatch_clips, self.precision = microbatch_clips, precision
        self.optimiser = adamw(sampler, training.optimiser)
        self.scale = RewardScale(training.rewards.decay)
        self.buffer: list[Experience] = []
        self.steps = self.updates = 0

    def remember(self, experiences: list[Experience]) -> None:
        """Keep one training step's experiences, this worker's part in microbatches."""
        self.buffer += experiences
        self.steps += 1

    @property
    def full(self) -> bool:
        """Whether it is time for an update."""
        return self.steps >= self.training.buffer_steps

    def update(self) -> dict[str, float]:
        """Learn from the buffer and empty it; returns `FIGURES`, and those of the first epoch as ``first_...``."""
        total = self.batch_clips * self.steps * self.buffer[0].action.shape[1]
        rewards = self._standardised(total)
        advantages = self._advantages(rewards, total)
        epochs = self.training.epochs if self.config.rule == "ppo" else 1
        figures = [self._epoch(rewards, advantages, total) for _ in range(epochs)]
        self.buffer.clear()
        self.steps = 0
        mean = torch.stack(figures).mean(0).tolist()
        told = dict(zip(FIGURES, mean, strict=True)) | {f"first_{name}": value for name, value in zip(
            FIGURES, figures[0].tolist(), strict=True)}
        return told | {"reward": self.scale.first / self.scale.weight, "epochs": float(epochs)}

    def _standardised(self, total: int) -> list[torch.Tensor]:
        raw = [clip_rewards(self.config.credits, each.token_losses.mean(2)).double() for each in self.buffer]
        sums = torch.stack([sum(each.sum() for each in raw), sum(each.square().sum() for each in raw)])
        self.share.add(sums)
        self.scale.update(*sums.tolist(), count=total)
        return [self.scale(each).float() for each in raw]

    def _advantages(self, rewards: list[torch.Tensor], total: int) -> list[torch.Tensor]:
        group = self.training.baseline == "group"
        advantages = [group_advantages(reward) if group else reward - each.values
                      for reward, each in zip(rewards, self.buffer, strict=True)]
        if not self.training.normalise_advantages or total == 1:
            return advantages
        whole = torch.cat(advantages).double()
        sums = torch.stack([whole.sum(), whole.square().sum()])
        self.share.add(sums)
        mean = sums[0] / total
        deviation = (sums[1] / total - mean**2).clamp(min=0).sqrt()
        return [((each - mean) / (deviation + 1e-6)).float() for each in advantages]

    def _epoch(self, rewards: list[torch.Tensor], advantages: list[torch.Tensor], total: int) -> torch.Tensor:
        sums = torch.zeros(len(FIGURES), device=rewards[0].device)
        for experience, reward, advantage in zip(self.buffer, rewards, advantages, strict=True):
            size = self.microbatch_clips or len(experience)
            for start in range(0, len(experience), size):
                rows = slice(start, start + size)
                sums += self._backward(experience[rows], reward[rows], advantage[rows], total)
        self.share.add(sums)
        descend(self.sampler, self.optimiser, self.training.optimiser, self.updates, self.total_updates, self.share,
                "the sampler")
        self.updates += 1
        return sums / total

    def _backward(self, experience: Experience, rewards: torch.Tensor, advantages: torch.Tensor, total: int) -> torch.Tensor:
        with self.precision():
            proposal: Proposal = self.sampler(experience.tokens).repeated(rewards.shape[1])
        rewards, advantages = rewards.flatten(), advantages.flatten()
        surrogate = self._surrogate(proposal, experience, advantages)
        spread = entropy(proposal.logits)
        wrong = torch.zeros_like(rewards) if proposal.values is None else value_loss(proposal.values, rewards)
        loss = surrogate.loss + self.training.value_coefficient * wrong
        if self.config.rule != "token":  # whose optimum, p in proportion to L, needs nothing to keep it wide
            lacking = (self.training.entropy_floor * math.log(proposal.logits.shape[1]) - spread).clamp(min=0)
            loss = loss - self.training.entropy_coefficient * spread + self.training.floor_coefficient * lacking
        (loss.sum() / total).backward()
        ratios = surrogate.ratios
        kl = (ratios - 1 - ratios.log()).mean(1)  # Schulman's estimate, never negative
        figures = (surrogate.loss, wrong, spread, surrogate.clipped, (ratios - 1).abs().mean(1), kl)
        return torch.stack([each.detach().sum() for each in figures])

    def _surrogate(self, proposal: Proposal, experience: Experience, advantages: torch.Tensor) -> Surrogate:
        """Of all masks, one a row."""
        logits = proposal.logits
        action, acted, masked, losses = (part.flatten(0, 1) for part in (
            experience.action, experience.log_probs, experience.masked, experience.token_losses))
        if self.config.rule == "ppo":
            return ppo_surrogate(self.training, draw_log_probs(logits, action), acted, advantages)
        if self.config.rule == "token":
            loss = self.training.policy_weight * token_credit_loss(logits, masked, losses)
            return Surrogate(loss, torch.ones_like(acted), torch.zeros_like(loss))
        exact = self.config.log_probability == "plackett_luce"
        return reinforce_surrogate((draw_log_probs if exact else categorical_log_probs)(logits, action), advantages)
