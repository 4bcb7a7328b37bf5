"""Trajectory attention (Motionformer: Patrick et al., arXiv 2106.05392, equations 2 to 5), without a class token.

Stage one: a token at place s and time t looks at all places of a time t', and what it finds there is the point of its
trajectory at that time: y~_stt' = sum_s' v_s't' softmax_s'(q_st . k_s't' / sqrt(d)). Stage two: it looks along its trajectory:
y_st = sum_t' v~_stt' softmax_t'(q~_st . k~_stt' / sqrt(d)), with q~ from the point at its own time and k~, v~ from all of them.
The authors' published code adds up y~ in place of v~; this follows the paper.
Shapes: B clips, T times, S places, N = T S tokens, H heads of width d, D = H d.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from squall.algorithms.masked_video.transformer import split_heads


class TrajectoryAttention(nn.Module):
    """Both stages, for queries in chunks: what a chunk needs is made again for the gradient and not kept."""

    def __init__(self, width: int, heads: int, times: int, chunk_tokens: int = 0) -> None:
        """`chunk_tokens` are queries at a time; 0 is all at once."""
        super().__init__()
        self.heads, self.times, self.chunk_tokens = heads, times, chunk_tokens
        self.query, self.value, self.path_query, self.path_value, self.out = (nn.Linear(width, width) for _ in range(5))
        self.key, self.path_key = (nn.Linear(width, width, bias=False) for _ in range(2))  # a bias would cancel

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to (B, N, D); tokens are numbered time first."""
        count = tokens.shape[1]
        query = split_heads(self.query(tokens), self.heads)
        key, value = (split_heads(part(tokens), self.heads).unflatten(2, (self.times, -1)) for part in (self.key, self.value))
        own = torch.arange(self.times, device=tokens.device).repeat_interleave(count // self.times)
        size = self.chunk_tokens or count
        parts = [self._chunk(query[:, :, start:start + size], key, value, own[start:start + size])
                 for start in range(0, count, size)]
        return self.out(torch.cat(parts, dim=1))

    def _chunk(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        if self.chunk_tokens and torch.is_grad_enabled():
            return checkpoint(self._attend, query, key, value, own, use_reentrant=False)
        return self._attend(query, key, value, own)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return self._along(self._points(query, key, value), own)

    def _points(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Stage one: trajectories (B, n, T, D) of queries (B, H, n, d) through keys and values (B, H, T, S, d)."""
        batch, heads, count, depth = query.shape
        queries = query.unsqueeze(2).expand(-1, -1, self.times, -1, -1).reshape(-1, self.times, count, depth)
        points = scaled_dot_product_attention(queries, key.flatten(0, 1), value.flatten(0, 1))
        return points.unflatten(0, (batch, heads)).permute(0, 3, 2, 1, 4).flatten(3)

    def _along(self, points: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Stage two: (B, n, D) of trajectories (B, n, T, D) whose tokens are of the times `own` (n,).

        Keys and values are linear in the points, so q~ is taken through the key's weights and the weighted sum of points
        through the value's, once for a token in place of once for each of its points.
        """
        width = points.shape[-1]
        diagonal = points.gather(2, own[None, :, None, None].expand(len(points), -1, 1, width)).squeeze(2)
        query = self.path_query(diagonal).unflatten(2, (self.heads, -1))
        asked = torch.einsum("bnhd,hdw->bnhw", query, self.path_key.weight.unflatten(0, (self.heads, -1)))
        weights = (asked @ points.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(3)
        summed = weights @ points
        values = torch.einsum("bnhw,hdw->bnhd", summed, self.path_value.weight.unflatten(0, (self.heads, -1)))
        return values.flatten(2) + self.path_value.bias
