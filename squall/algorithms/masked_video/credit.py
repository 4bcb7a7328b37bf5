"""What a sampler is rewarded for: which set it draws, for whom the reward is, and its sign.

A sampler should learn to draw informative tokens. Three combinations reward that, and no other is accepted:

- visible set, token credit, +L: a masked token that was hard to predict gains probability of being visible (AdaMAE, Bandara et
  al., arXiv 2211.09120, equation 4);
- visible set, clip credit, -L: a visible set from which the rest was predicted well was a good one;
- masked set, clip credit, +L: a masked set that was hard to predict held the information.

A visible set rewarded by +L would leave motion masked, and so on. L is the autoencoder's loss, which no gradient reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from squall.platform.config import Config
from squall.platform.errors import ConfigError

if TYPE_CHECKING:
    import torch

Chooses = Literal["visible", "masked"]
Per = Literal["token", "clip"]
Reward = Literal["loss", "minus_loss"]
ALLOWED: tuple[tuple[Chooses, Per, Reward], ...] = (
    ("visible", "token", "loss"), ("visible", "clip", "minus_loss"), ("masked", "clip", "loss"))


class CreditConfig(Config):
    """Which set is drawn and what for: visible, token, loss; visible, clip, minus_loss; or masked, clip, loss."""

    chooses: Chooses = "visible"
    """What the drawn tokens become."""
    per: Per = "clip"
    """Whether a clip has one reward, or every masked token its own."""
    reward: Reward = "minus_loss"
    """The autoencoder's loss, or its negative."""

    @model_validator(mode="after")
    def _rewarding(self) -> CreditConfig:
        try:
            check_credit(self.chooses, self.per, self.reward)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self


def check_credit(chooses: str, per: str, reward: str) -> None:
    """Raises ConfigError for a combination that does not reward drawing informative tokens."""
    if (chooses, per, reward) not in ALLOWED:
        raise ConfigError(f"a {chooses} set with {per} credit and reward {reward} does not reward choosing informative tokens; "
                          f"allowed: {'; '.join(', '.join(each) for each in ALLOWED)}")


def clip_rewards(config: CreditConfig, losses: torch.Tensor) -> torch.Tensor:
    """Rewards (B,), without a gradient, of a clip's mean losses (B,)."""
    return -losses.detach() if config.reward == "minus_loss" else losses.detach()


def token_credit_loss(logits: torch.Tensor, masked: torch.Tensor, token_losses: torch.Tensor) -> torch.Tensor:
    """AdaMAE's loss of each clip (B,): -(1 / M) sum over masked tokens of log p_i L_i (arXiv 2211.09120, equation 4).

    p is the categorical distribution of one draw: the masked tokens are not the action, and no ratio can be made of this.

    Args:
        logits: (B, N).
        masked: int64 (B, M).
        token_losses: (B, M).
    """
    return -(logits.log_softmax(1).gather(1, masked) * token_losses.detach()).mean(1)


class RewardScaleConfig(Config):
    """Running mean and deviation by which rewards are standardised."""

    decay: float = Field(0.95, ge=0, lt=1)
    """Weight of the past at each update; 0 takes the moments of the present rewards."""


class RewardScale:
    """Standardises rewards by running moments that are the same on all workers."""

    def __init__(self, decay: float) -> None:
        self.decay, self.weight, self.first, self.second = decay, 0.0, 0.0, 0.0

    def update(self, total: float, squares: float, count: float) -> None:
        """Take in `count` rewards, over all workers, by their sum and the sum of their squares."""
        keep = self.decay
        self.weight = keep * self.weight + (1 - keep)
        self.first = keep * self.first + (1 - keep) * total / count
        self.second = keep * self.second + (1 - keep) * squares / count

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Rewards less the mean, over the deviation."""
        mean = self.first / self.weight
        variance = max(0.0, self.second / self.weight - mean**2)
        return (rewards - mean) / (variance**0.5 + 1e-6)

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"weight": self.weight, "first": self.first, "second": self.second}

    def load(self, state: dict[str, float]) -> None:
        """Go on from `state`."""
        self.weight, self.first, self.second = state["weight"], state["first"], state["second"]
