"""Gradients that several workers have parts of, and the step that follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import nn

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

    A group of parameters that has a ``scale`` moves by that share of the rate.

    Raises:
        SquallError: the length is not finite; it begins with `name`.
    """
    join(module, share)
    norm = check_norm(float(torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)), name, update)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate_at(config, update, updates) * group.get("scale", 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm


def check_norm(norm: float, name: str, update: int) -> float:
    """The length of a gradient, for update `update` (from 0). Raises SquallError, which begins with `name`, where it is not
    finite."""
    if not math.isfinite(norm):
        raise SquallError(f"{name}: the length of the gradient is {norm} at update {update + 1}; lower its learning_rate, or "
                          "let it warm up (warmup_steps)")
    return norm


MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


class Descent(Protocol):
    """How the autoencoder's gradients are made and followed: plainly, or by an engine that shards its optimiser."""

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a microbatch's gradient; `last` of the step."""

    def step(self, update: int, updates: int) -> float:
        """As `descend`."""

    def state(self, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """``weight/NAME``, ``exp_avg/NAME`` and ``exp_avg_sq/NAME``, whole, on workers that `keep`; every worker calls it."""

    def restore(self, state: Mapping[str, torch.Tensor], updates: int) -> None:
        """Go on from what `state` gave after so many updates."""


DescentMaker = Callable[[nn.Module, torch.optim.Optimizer, AdamWConfig, Share, str], Descent]
"""From a module, its optimiser, the settings, this worker's share and a name for errors."""


class PlainDescent:
    """Every worker has all of the optimiser."""

    def __init__(self, module: nn.Module, optimiser: torch.optim.Optimizer, config: AdamWConfig, share: Share, name: str
                 ) -> None:
        self.module, self.optimiser, self.config, self.share, self.name = module, optimiser, config, share, name

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        loss.backward()

    def step(self, update: int, updates: int) -> float:
        return descend(self.module, self.optimiser, self.config, update, updates, self.share, self.name)

    def state(self, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
        return state_of(self.module, self.optimiser) if keep else iter(())

    def restore(self, state: Mapping[str, torch.Tensor], updates: int) -> None:
        restore_state(self.module, self.optimiser, state, updates)


def state_of(module: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """``weight/NAME`` of every parameter and, after its first update, ``exp_avg/NAME`` and ``exp_avg_sq/NAME``."""
    for name, weight in module.named_parameters():
        yield f"weight/{name}", weight.detach()
        yield from ((f"{moment}/{name}", optimiser.state[weight][moment]) for moment in MOMENTS if weight in optimiser.state)


def restore_state(module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, torch.Tensor], updates: int) -> None:
    """Go on from what `state_of` gave after so many updates. Raises SquallError as `check_state`."""
    check_state(module, state)
    for name, weight in module.named_parameters():
        weight.data.copy_(state[f"weight/{name}"])
        if f"{MOMENTS[0]}/{name}" in state:
            moments = {moment: state[f"{moment}/{name}"].to(weight.device) for moment in MOMENTS}
            optimiser.state[weight] = {"step": torch.tensor(float(updates)), **moments}


def check_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Raises SquallError where a state is of a module of another size."""
    for name, weight in module.named_parameters():
        stored = state.get(f"weight/{name}")
        if stored is None or stored.shape != weight.shape:
            found = "is not there" if stored is None else f"has shape {tuple(stored.shape)} and not {tuple(weight.shape)}"
            raise SquallError(f"a checkpoint of another size: {name} {found}")
