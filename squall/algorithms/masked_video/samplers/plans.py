"""One interface for all samplers: from clips and their tokens to a plan of what is visible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from squall.algorithms.masked_video.credit import Chooses
from squall.algorithms.masked_video.subsets import draw, draw_log_probs, entropy
from squall.platform.errors import SquallError

if TYPE_CHECKING:
    from squall.algorithms.masked_video.grid import TokenGrid


@dataclass(frozen=True)
class Proposal:
    """What a sampler makes of B clips."""

    logits: torch.Tensor
    """float32 (B, N): tokens are drawn from their softmax, without replacement."""
    values: torch.Tensor | None = None
    """(B,): the standardised reward that the critic expects, where there is one."""

    def repeated(self, masks: int) -> Proposal:
        """Each clip's `masks` times, one after the other."""
        if masks == 1:
            return self
        return Proposal(*(None if part is None else part.repeat_interleave(masks, 0) for part in (self.logits, self.values)))


@dataclass(frozen=True)
class MaskPlan:
    """Which tokens of B clips are visible, and how that came about."""

    visible: torch.Tensor
    """int64 (B, V), ascending."""
    masked: torch.Tensor
    """int64 (B, M), ascending, all others."""
    proposal: Proposal
    """What the tokens were drawn from."""
    action: torch.Tensor
    """int64 (B, K): the drawn tokens, visible or masked ones, in the order of drawing."""
    chooses: Chooses = "visible"
    """What the drawn tokens became."""
    exact: bool = True
    """Whether the action was drawn by Plackett-Luce from the logits; a tube, which draws places, was not."""
    log_probs: torch.Tensor | None = field(init=False)
    """(B, K): log-probability of each draw given those before it, whose sum is that of the action; None where not `exact`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_probs", draw_log_probs(self.proposal.logits, self.action) if self.exact else None)

    @property
    def log_probability(self) -> torch.Tensor | None:
        """(B,): of the action, in nats."""
        return None if self.log_probs is None else self.log_probs.sum(1)

    @property
    def probabilities(self) -> torch.Tensor:
        """(B, N): of each token in one draw."""
        return self.proposal.logits.softmax(1)

    @property
    def entropy(self) -> torch.Tensor:
        """(B,): of one draw, in nats."""
        return entropy(self.proposal.logits)


class Sampler(nn.Module, ABC):
    """Proposes logits for tokens; a plan is drawn from them."""

    learns: ClassVar[bool] = False
    """Whether it has weights."""
    looks: ClassVar[bool] = False
    """Whether it needs `tokens`."""

    def __init__(self, grid: TokenGrid, chooses: Chooses = "visible") -> None:
        super().__init__()
        self.grid, self.chooses = grid, chooses

    @abstractmethod
    def propose(self, clips: torch.Tensor, tokens: torch.Tensor) -> Proposal:
        """Logits from clips (B, C, T, H, W) in [0, 1] and the autoencoder's tokens (B, N, D), which get no gradient from it."""

    def plan(self, clips: torch.Tensor, tokens: torch.Tensor, visible: int, noise: torch.Tensor) -> MaskPlan:
        """Draw without replacement.

        Args:
            clips: (B, C, T, H, W) in [0, 1].
            tokens: (B, N, D).
            visible: V, from 1 to N - 1.
            noise: `gumbel_noise` (B G, N), G masks of each clip one after the other; the plan has as many rows.

        Raises:
            SquallError: a logit is not finite.
        """
        proposal = self.propose(clips, tokens).repeated(len(noise) // len(clips))
        count = visible if self.chooses == "visible" else self.grid.tokens - visible
        return plan_of(proposal, draw(checked(proposal.logits), noise, count), self.chooses)


def plan_of(proposal: Proposal, action: torch.Tensor, chooses: Chooses = "visible", exact: bool = True) -> MaskPlan:
    """The plan in which the drawn tokens (B, K) become visible, or masked."""
    chosen = torch.zeros_like(proposal.logits, dtype=torch.bool).scatter(1, action, True)
    order = (~chosen).int().argsort(dim=1, stable=True)  # both parts stay in ascending order
    drawn, rest = order[:, :action.shape[1]], order[:, action.shape[1]:]
    visible, masked = (drawn, rest) if chooses == "visible" else (rest, drawn)
    return MaskPlan(visible, masked, proposal, action, chooses, exact)


def checked(logits: torch.Tensor) -> torch.Tensor:
    """Raises SquallError where a logit is not finite, which would draw tokens by their number."""
    if not bool(logits.isfinite().all()):
        raise SquallError("the sampler's logits are not finite: the clips hold such values, or "
                          "sampler_training.optimiser.learning_rate is too high")
    return logits
