"""The blocks that autoencoder and samplers are made of: pre-norm attention and a perceptron, and fixed sine positions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from squall.algorithms.masked_video.autoencoder_config import NORM_EPSILON


class Attention(nn.Module):
    """Every token attends to every token; keys have no bias, which would change nothing but the export."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to (B, N, D)."""
        query, key, value = (split_heads(part(tokens), self.heads) for part in (self.query, self.key, self.value))
        return self.out(merge_heads(scaled_dot_product_attention(query, key, value)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, attention: nn.Module, mlp_ratio: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = attention
        self.after = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.wider = nn.Linear(width, int(width * mlp_ratio))
        self.narrower = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, tokens: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, D) to (B, N, D); `kept` (B, 2) has factors of the two branches (stochastic depth, arXiv 1603.09382)."""
        tokens = tokens + _times(self.attention(self.before(tokens)), kept, 0)
        return tokens + _times(self.narrower(nn.functional.gelu(self.wider(self.after(tokens)))), kept, 1)


def _times(branch: torch.Tensor, kept: torch.Tensor | None, number: int) -> torch.Tensor:
    return branch if kept is None else branch * kept[:, number, None, None]


def split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, D) to (B, heads, N, D / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_heads`."""
    return tokens.transpose(1, 2).flatten(2)


def sine_positions(count: int, width: int) -> torch.Tensor:
    """Fixed positions float32 (count, width): sines in even places, cosines in odd ones ("Attention is all you need", 3.5)."""
    place = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10_000 ** (2 * (place // 2) / width)
    return torch.where(place % 2 == 0, angles.sin(), angles.cos()).float()


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with biases of 0; for ``module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def take(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens (B, K, D) at places int64 (B, K) of (B, N, D)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
