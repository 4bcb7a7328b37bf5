"""Logits of the whole vocabulary, some of its entries at a time, in the forward and in the backward pass.

Shapes: N predicted tokens, D hidden size, V vocabulary, C entries of it whose logits exist at the same time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

VOCABULARY_CHUNK = 8192
"""Vocabulary entries whose logits exist at the same time."""


def part_of_logits(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, temperature: float, start: int,
                   chunk: int) -> torch.Tensor:
    """``(hidden W^T + bias) / temperature`` of the entries from `start` on, fp32 (N, C)."""
    part = slice(start, start + chunk)
    return ((hidden_ND @ weight_VD[part].T).float() + bias_V[part]) / temperature


def through_logits(slope: Callable[[int, torch.Tensor], torch.Tensor], hidden_ND: torch.Tensor, weight_VD: torch.Tensor,
                   bias_V: torch.Tensor, temperature: float, chunk: int,
                   with_weight: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients to hidden states and, where asked for, weight; the logits are computed anew.

    Args:
        slope: makes the gradient (N, C) to a part of the logits from the part's first entry and its logits.
    """
    hidden_gradient_ND = torch.zeros_like(hidden_ND)
    weight_gradient_VD = torch.zeros_like(weight_VD) if with_weight else None
    for start in range(0, len(weight_VD), chunk):
        logits_NC = part_of_logits(hidden_ND, weight_VD, bias_V, temperature, start, chunk)
        slope_NC = (slope(start, logits_NC) / temperature).to(hidden_ND.dtype)
        hidden_gradient_ND += slope_NC @ weight_VD[start:start + chunk]
        if weight_gradient_VD is not None:
            weight_gradient_VD[start:start + chunk] = slope_NC.T @ hidden_ND
    return hidden_gradient_ND, weight_gradient_VD
