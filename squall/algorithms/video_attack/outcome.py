"""What an attack did to one clip, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VideoOutcome:
    """The result of any attack on one clip that the victim classified correctly."""

    adversarial: np.ndarray
    """uint8 (T, H, W, 3); where the clip stands, the attempt that the victim gave the label the least probability."""
    fooled: bool
    """The victim gives `adversarial` another class than the label."""
    queries: int
    """Clips asked about until the flip, or until the attack gave up, the clean clip included."""
    removal_queries: int = 0
    """Clips asked about after the flip, to make the change smaller."""
    occupancy: np.ndarray | None = None
    """int8 (blocks, rows, columns): the level of distortion in every cell; None for an attack that knows no cells."""
    trace: tuple[tuple[int, float], ...] = ()
    """Number of each query until the flip, from 1, and the probability that the victim then gave the label."""

    @property
    def total_queries(self) -> int:
        """All clips asked about."""
        return self.queries + self.removal_queries
