"""A masked video autoencoder, written from the paper (VideoMAE: Tong et al., arXiv 2203.12602, section 3.3 and figure 2).

The encoder sees visible tokens alone; a light decoder sees what it made of them and, at every other place, a learned mask
token, and predicts the pixels of those places. The modules are such that their weights are also those of Hugging Face's
VideoMAE.
Shapes: B clips, N tokens, V visible and M = N - V masked ones, D the width, P the numbers of a token's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
from squall.algorithms.masked_video.transformer import Attention, Block, initialise, sine_positions, take

TARGET_FLOOR = 1e-6
"""Added to the standard deviation of a token's pixels."""


@dataclass(frozen=True)
class Reconstruction:
    """What the autoencoder made of masked tokens."""

    prediction: torch.Tensor
    """(B, M, P)."""
    target: torch.Tensor
    """(B, M, P), without a gradient."""
    token_losses: torch.Tensor
    """(B, M): mean squared error of each masked token."""

    @property
    def losses(self) -> torch.Tensor:
        """(B,): mean over a clip's masked tokens."""
        return self.token_losses.mean(1)


class MaskedAutoencoder(nn.Module):
    """Weights come from torch's global generator."""

    mean: torch.Tensor
    std: torch.Tensor
    positions: torch.Tensor
    decoder_positions: torch.Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        """Raises ConfigError where tubelets do not fit the clips."""
        super().__init__()
        self.config, self.grid = config, config.grid()
        grid, size = self.grid, (config.tubelet, config.patch, config.patch)
        self.embedding = nn.Conv3d(config.channels, config.width, kernel_size=size, stride=size)
        self.encoder = _blocks(config.width, config.heads, config.depth, config.mlp_ratio)
        self.norm = nn.LayerNorm(config.width, eps=1e-12) if config.final_norm else nn.Identity()
        self.to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder = _blocks(config.decoder_width, config.decoder_heads, config.decoder_depth, config.mlp_ratio)
        self.decoder_norm = nn.LayerNorm(config.decoder_width)
        self.head = nn.Linear(config.decoder_width, grid.values)
        for name, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1, 1), persistent=False)
        for name, width in (("positions", config.width), ("decoder_positions", config.decoder_width)):
            self.register_buffer(name, sine_positions(grid.tokens, width), persistent=False)
        self._initialise()

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D), before their positions, of clips (B, channels, frames, height, width) in [0, 1]."""
        self.grid.check(clips)
        return self.embedding((clips - self.mean) / self.std).flatten(2).transpose(1, 2)

    def encode(self, tokens: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Features (B, V, D) of visible tokens.

        Args:
            tokens: (B, N, D), all that `embed` returned.
            visible: places int64 (B, V), ascending; by default all.
        """
        placed = tokens + self.positions
        return self.norm(self.encoder(placed if visible is None else take(placed, visible)))

    def decode(self, features: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Predicted pixels (B, M, P) of masked places from the features (B, V, D) of visible ones."""
        places = self.decoder_positions.expand(len(features), -1, -1)
        seen = self.to_decoder(features) + take(places, visible)
        unseen = self.mask_token + take(places, masked)
        decoded = self.decoder(torch.cat([seen, unseen], dim=1))[:, visible.shape[1]:]
        return self.head(self.decoder_norm(decoded))

    def targets(self, clips: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """What is to be predicted (B, M, P): pixels, by default over those of their token (arXiv 2203.12602, 3.1; unbiased)."""
        pixels = take(self.grid.cut(clips).flatten(2), masked).unflatten(2, (-1, self.grid.channels))
        if self.config.normalise_targets:
            pixels = (pixels - pixels.mean(2, keepdim=True)) / (pixels.std(2, keepdim=True) + TARGET_FLOOR)
        return pixels.flatten(2)

    def reconstruct(self, clips: torch.Tensor, tokens: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor
                    ) -> Reconstruction:
        """Predict the masked tokens of clips whose tokens `embed` returned, and compare.

        Args:
            clips: (B, channels, frames, height, width) in [0, 1].
            tokens: (B, N, D).
            visible: int64 (B, V), ascending.
            masked: int64 (B, M), all other places, ascending.
        """
        prediction = self.decode(self.encode(tokens, visible), visible, masked).float()
        with torch.no_grad():
            target = self.targets(clips.float(), masked)
        return Reconstruction(prediction, target, (prediction - target).square().mean(2))

    def forward(self, clips: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> Reconstruction:
        """`embed` and `reconstruct`."""
        return self.reconstruct(clips, self.embed(clips), visible, masked)

    def _initialise(self) -> None:
        self.apply(initialise)
        nn.init.xavier_uniform_(self.embedding.weight.view(len(self.embedding.weight), -1))
        nn.init.zeros_(self.embedding.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)


def _blocks(width: int, heads: int, depth: int, mlp_ratio: float) -> nn.Sequential:
    return nn.Sequential(*(Block(width, Attention(width, heads), mlp_ratio) for _ in range(depth)))
