"""Samplers that learn: a network over a clip's tokens with an actor's and a critic's head.

TATS' network is trajectory attention (Rai et al., arXiv 2505.08561), AdaMAE's a plain transformer block (arXiv 2211.09120,
section 3.2). Widths, depth, and that both heads stand on one trunk, are ours: the papers' own are not known to us or follow
ViT-B.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from squall.algorithms.masked_video.credit import Chooses
from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.plans import Proposal, Sampler
from squall.algorithms.masked_video.trajectory import TrajectoryAttention
from squall.algorithms.masked_video.transformer import Attention, Block, initialise, sine_positions
from squall.platform.config import Config

NetworkKind = Literal["trajectory", "attention"]


class SamplerNetworkConfig(Config):
    """Sizes of a learned sampler."""

    width: int = Field(96, ge=1)
    """Numbers of a token; a multiple of `heads`."""
    heads: int = Field(3, ge=1)
    """Attention heads."""
    depth: int = Field(1, ge=1)
    """Blocks of attention and perceptron."""
    mlp_ratio: float = Field(2.0, gt=0)
    """Hidden width of the blocks' perceptrons over `width`."""
    shared_trunk: bool = True
    """Whether actor and critic read the same blocks, or each has its own."""
    chunk_tokens: int = Field(0, ge=0)
    """Queries of trajectory attention at a time, which bounds its memory; 0 is all at once. The results are equal."""
    max_logit: float = Field(10.0, gt=0)
    """Logits are kept softly within plus and minus this, so that no token's probability is lost to rounding."""

    @model_validator(mode="after")
    def _divides(self) -> SamplerNetworkConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class LearnedSampler(Sampler):
    """Weights come from torch's global generator; a new sampler has next to no preferences."""

    learns: ClassVar[bool] = True
    looks: ClassVar[bool] = True
    positions: torch.Tensor

    def __init__(self, grid: TokenGrid, token_width: int, config: SamplerNetworkConfig, kind: NetworkKind = "trajectory",
                 critic: bool = True, chooses: Chooses = "visible") -> None:
        """`token_width` is the autoencoder's."""
        super().__init__(grid, chooses)
        self.config, self.kind = config, kind
        self.entry = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, config.width))
        self.register_buffer("positions", sine_positions(grid.tokens, config.width), persistent=False)
        self.trunk = self._blocks()
        self.critic_trunk = self._blocks() if critic and not config.shared_trunk else None
        self.actor = nn.Linear(config.width, 1, bias=False)  # a softmax would not see it
        self.critic = nn.Sequential(nn.Linear(2 * config.width, config.width), nn.GELU(), nn.Linear(config.width, 1)
                                    ) if critic else None
        self.apply(initialise)
        for last in (self.actor, *(() if self.critic is None else (self.critic[-1],))):
            nn.init.normal_(last.weight, std=0.01)

    def propose(self, clips: torch.Tensor, tokens: torch.Tensor) -> Proposal:
        return self(tokens)

    def forward(self, tokens: torch.Tensor) -> Proposal:
        """Logits and values from the autoencoder's tokens (B, N, D), to which no gradient goes."""
        entered = self.entry(tokens.detach()) + self.positions
        features = self.trunk(entered)
        logits = self.actor(features).squeeze(2).float()
        bound = self.config.max_logit
        return Proposal(bound * (logits / bound).tanh(), self._values(entered, features))

    def _values(self, entered: torch.Tensor, features: torch.Tensor) -> torch.Tensor | None:
        if self.critic is None:
            return None
        seen = features if self.critic_trunk is None else self.critic_trunk(entered)
        return self.critic(torch.cat([seen.mean(1), seen.amax(1)], dim=1)).squeeze(1).float()

    def _blocks(self) -> nn.Sequential:
        config, width = self.config, self.config.width
        return nn.Sequential(*(Block(width, self._attention(), config.mlp_ratio) for _ in range(config.depth)),
                             nn.LayerNorm(width))

    def _attention(self) -> nn.Module:
        config = self.config
        if self.kind == "attention":
            return Attention(config.width, config.heads)
        return TrajectoryAttention(config.width, config.heads, self.grid.times, config.chunk_tokens)
