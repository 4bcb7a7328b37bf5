"""Square Attack adapted to video: boxes of one colour change over a run of frames (Andriushchenko et al. 2020).

Each question tries one change inside a random box; what lowers the margin stays. A box covers a share of the clip, by which
each of its sides follows, so that its run of frames shortens as its squares shrink. The change of a box is the same in all of
its frames: it does not flicker.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import ClassVar

import numpy as np
from pydantic import Field

from squall.algorithms.attacks.square import HALVINGS
from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.linf import LinfControl
from squall.algorithms.video_attack.controls.search import Search

SCHEDULED = 10_000
"""Queries that the paper's schedule of halvings was made for; other budgets stretch or shrink it, as the authors' code does."""
Box = tuple[slice, slice, slice]


class SquareVideo(LinfControl):
    """Random search by boxes whose values lie at the two bounds."""

    kind: ClassVar[str] = "square_video"

    p_init: float = Field(0.8, gt=0, le=1)
    """Share of the clip that the first boxes cover."""

    def _search(self, ask: Ask, target: Target) -> Search[np.ndarray]:
        return Search(ask, target.label, target.config.max_queries, target.clip, lambda clip: clip, self.graded)

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        """Begin with vertical stripes (section 3.1 there), the same in every frame."""
        clip, epsilon = target.clip.astype(np.int16), self.levels(target)
        low, high = ((clip + change).clip(0, 255).astype(np.uint8) for change in (-epsilon, epsilon))
        best = np.where(rng.random((1, 1, clip.shape[2], 3)) < 0.5, low, high)
        margin = search.ask([best])[1][0]
        while True:
            box = random_box(clip.shape, share_at(search.progress, self.p_init), rng)
            tried = best.copy()
            tried[box] = np.where(rng.random(3) < 0.5, low[box], high[box])
            if np.array_equal(tried[box], best[box]):
                continue
            asked = search.ask([tried])[1][0]
            if asked < margin:
                best, margin = tried, asked


def share_at(progress: float, p_init: float) -> float:
    """Share of the clip that a box covers after this share of the budget: halved at the paper's steps."""
    return p_init / 2 ** bisect_right(HALVINGS, progress * SCHEDULED)


def random_box(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Box:
    """A box in a clip (T, H, W, 3) that covers about a share of it: of every axis the share's cube root, at least 1."""
    lengths = [max(round(size * share ** (1 / 3)), 1) for size in shape[:3]]
    firsts = [int(rng.integers(size - length + 1)) for size, length in zip(shape, lengths, strict=False)]
    frames, rows, columns = (slice(first, first + length) for first, length in zip(firsts, lengths, strict=True))
    return frames, rows, columns
