"""Gradients that several workers have parts of, and the step that follows from them."""

from __future__ import annotations

import math

import torch

from squall.algorithms.classifier_config import AdamWConfig
from squall.algorithms.classifier_training import Share
from squall.algorithms.schedules import learning_rate_at
from squall.platform.errors import SquallError


def adamw(module: torch.nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """AdamW in which biases, norms and other vectors do not decay."""
    weights = list(module.parameters())
    groups = [{"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": config.weight_decay},
              {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def join(module: torch.nn.Module, share: Share) -> None:
    """Add up gradients over workers, in one exchange; every worker must have them for the same parameters."""
    if share.workers == 1:
        return
    parts = [weight.grad for weight in module.parameters() if weight.grad is not None]
    joined = torch.cat([part.flatten() for part in parts])
    share.add(joined)
    for part, values in zip(parts, joined.split([part.numel() for part in parts]), strict=True):
        part.copy_(values.view_as(part))


def descend(module: torch.nn.Module, optimiser: torch.optim.Optimizer, config: AdamWConfig, update: int, updates: int,
            share: Share, name: str) -> float:
    """Join gradients, cut them to their greatest length, and take update `update` (from 0) of `updates`; returns the length.

    Raises:
        SquallError: the length is not finite; it begins with `name`.
    """
    join(module, share)
    norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm))
    if not math.isfinite(norm):
        raise SquallError(f"{name}: the length of the gradient is {norm} at update {update + 1}; lower its learning_rate, or "
                          "let it warm up (warmup_steps)")
    for group in optimiser.param_groups:
        group["lr"] = learning_rate_at(config, update, updates)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm
