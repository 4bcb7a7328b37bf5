"""How a sampler learns from what became of its actions: PPO, and REINFORCE with a learned baseline as its control.

A clip is an episode: the state is its tokens, the K draws are K decisions, and the reward comes at the end. So the value of the
state before the first draw is the baseline of all draws, and there is nothing to discount. PPO is Schulman et al., arXiv
1707.06347, equation 7; how TATS (arXiv 2505.08561) sets it up is not known to us, so keys and defaults are ours. Losses alone
are here; `learner` keeps the buffer and the optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from squall.algorithms.classifier_config import AdamWConfig
from squall.algorithms.masked_video.credit import RewardScaleConfig
from squall.platform.config import Config
from squall.platform.errors import ConfigError


class SamplerTrainingConfig(Config):
    """How a learned sampler is trained."""

    optimiser: AdamWConfig = AdamWConfig(learning_rate=3e-4, schedule="constant", weight_decay=0.0)
    """Its own AdamW, a step for each epoch."""
    warmup_steps: int = Field(100, ge=0)
    """First steps of training in which masks are random and the autoencoder alone learns."""
    buffer_steps: int = Field(1, ge=1)
    """Training steps between updates, whose actions one update learns from. Their tokens stay in memory."""
    epochs: int = Field(2, ge=1)
    """tats: how often an update goes over the buffer. The others, which know no ratio, go over it once."""
    clip: float = Field(0.2, gt=0, lt=1)
    """tats: a ratio further than this from 1 gains nothing."""
    ratio: Literal["draw", "action"] = "draw"
    """tats: whether every draw has its ratio, given the draws before it, or the whole action has one, the product of theirs,
    which is soon clipped when many tokens are drawn."""
    baseline: Literal["critic", "group"] = "critic"
    """tats, reinforce: what a reward is compared with: what the critic expects of the clip, or the mean reward of the clip's
    other masks, of which `masks_per_clip` must give some. A group takes off all that differs between clips; the critic learns
    on."""
    value_coefficient: float = Field(0.5, ge=0)
    """Weight of the critic's squared error."""
    entropy_coefficient: float = Field(0.01, ge=0)
    """tats, reinforce: weight of the entropy (nats) of a draw, which keeps the sampler from collapsing."""
    entropy_floor: float = Field(0.0, ge=0, lt=1)
    """tats, reinforce: share of a random draw's entropy below which no clip's draw should fall: what a clip lacks of it costs
    `floor_coefficient` a nat, however sure the sampler is. 0 is none."""
    floor_coefficient: float = Field(1.0, ge=0)
    """Weight of what is lacking (nats)."""
    normalise_advantages: bool = True
    """Divide advantages by their deviation over the buffer, after taking off their mean."""
    rewards: RewardScaleConfig = RewardScaleConfig()
    """How rewards are standardised."""
    policy_weight: float = Field(1e-4, gt=0)
    """adamae: weight of its loss, as in its code. AdamW's steps do not depend on a loss' scale, so that beside an optimiser of
    its own it changes nothing but rounding."""

    def check(self, masks_per_clip: int) -> None:
        """Raises ConfigError where a mask would have no others to be compared with."""
        if self.baseline == "group" and masks_per_clip < 2:
            raise ConfigError("sampler_training.baseline group compares a mask with others of its clip; "
                              "set masks_per_clip to 2 or more, or take the critic")


@dataclass(frozen=True)
class Surrogate:
    """What is minimised, and what tells how it goes. B clips, K draws."""

    loss: torch.Tensor
    """(B,), with a gradient."""
    ratios: torch.Tensor
    """(B, K), or (B, 1) for whole actions, without a gradient."""
    clipped: torch.Tensor
    """(B,): share of ratios whose gain was cut off."""


def ppo_surrogate(config: SamplerTrainingConfig, log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor
                  ) -> Surrogate:
    """-min(w A, clip(w, 1 - e, 1 + e) A), its mean over draws (arXiv 1707.06347, equation 7).

    With `ratio` action the loss is divided by K, so that both kinds have the same gradient where all ratios are 1.

    Args:
        log_probs: (B, K) of each draw given those before it, by the sampler as it is.
        old_log_probs: (B, K), by the sampler that acted.
        advantages: (B,).
    """
    draws = log_probs.shape[1]
    change = log_probs - old_log_probs.detach()
    ratios = (change if config.ratio == "draw" else change.sum(1, keepdim=True)).exp()
    gains = advantages.detach()[:, None]
    capped = ratios.clamp(1 - config.clip, 1 + config.clip) * gains
    loss = -torch.minimum(ratios * gains, capped).mean(1)
    clipped = (capped < ratios * gains).float().mean(1)
    return Surrogate(loss if config.ratio == "draw" else loss / draws, ratios.detach(), clipped)


def reinforce_surrogate(log_probs: torch.Tensor, advantages: torch.Tensor) -> Surrogate:
    """-A log pi(a), over K: its gradient is PPO's where all ratios are 1 (Williams 1992, with a baseline)."""
    ones = torch.ones_like(log_probs)
    return Surrogate(-advantages.detach() * log_probs.mean(1), ones, torch.zeros_like(advantages))


def group_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards (B, masks) of clips' masks less the mean of the others of that clip (leave-one-out; Kool et al., 2019)."""
    masks = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (masks / (masks - 1))


def value_loss(values: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Squared error (B,) of a critic's values against standardised rewards (B,)."""
    return (values - rewards.detach()).square()
