"""How a number changes over training: learning rates and exploration rates."""

from __future__ import annotations

import math
from typing import Literal, Protocol

Shape = Literal["constant", "linear", "cosine"]


class RateSchedule(Protocol):
    """What `learning_rate_at` reads from an optimiser's configuration."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def schedule(self) -> Shape: ...
    @property
    def final_fraction(self) -> float: ...


def anneal(first: float, last: float, shape: Shape, progress: float) -> float:
    """A number that goes from `first` at progress 0 to `last` at progress 1; a constant one stays at `first`."""
    if shape == "constant":
        return first
    left = 1 - progress if shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return last + (first - last) * left


def learning_rate_at(config: RateSchedule, update: int, total_updates: int) -> float:
    """Learning rate of optimiser update `update` (from 0) of `total_updates`."""
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    progress = min(1.0, (update - config.warmup_steps) / max(1, total_updates - config.warmup_steps))
    return anneal(config.learning_rate, config.learning_rate * config.final_fraction, config.schedule, progress)
