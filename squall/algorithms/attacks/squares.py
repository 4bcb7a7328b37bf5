"""What Square Attack tries on pictures: squares of one sign a channel for Linf, bumps for L2.

Andriushchenko et al. 2020, algorithms 2 and 3 and section 3. Pictures are (n, C, H * W) here; the frames of a clip are
channels, so that a square spans them all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from squall.algorithms.attacks.projections import TINY, unit
from squall.algorithms.attacks.rounds import Batch

if TYPE_CHECKING:
    import torch

    from squall.algorithms.attacks.base import Norm
    from squall.algorithms.attacks.draws import Draws


@dataclass(frozen=True)
class Squares:
    """Squares of one side in pictures, and the size of the change."""

    height: int
    width: int
    side: int
    epsilon: float

    def corners(self, numbers: torch.Tensor) -> torch.Tensor:
        """First pixels (...) of squares at random places, of numbers (..., 2) in [0, 1).

        As in the authors' code no square touches the last row or column unless it is as large as the picture.
        """
        top, left = (numbers[..., 0] * (self.height - self.side)).long(), (numbers[..., 1] * (self.width - self.side)).long()
        return top * self.width + left

    def pixels(self, corners: torch.Tensor) -> torch.Tensor:
        """All pixels (..., side * side) of squares with these corners (...)."""
        return corners[..., None] + self._inside.to(corners.device)

    @cached_property
    def _inside(self) -> torch.Tensor:
        import torch

        along = torch.arange(self.side)
        return (along[:, None] * self.width + along).flatten()


@dataclass(frozen=True)
class Walk(Batch, ABC):
    """State of n pictures over a span of steps. `images` and `points` are (n, C, H * W)."""

    losses: torch.Tensor
    """Of the points, (n,)."""

    @staticmethod
    @abstractmethod
    def side(share: float, height: int, width: int) -> int:
        """Of a square that covers this share of the picture."""

    @staticmethod
    @abstractmethod
    def start(images: torch.Tensor, epsilon: float, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
        """The first points, shaped as images (n, C, H, W)."""

    @classmethod
    @abstractmethod
    def drawn(cls, batch: Batch, losses: torch.Tensor, squares: Squares, steps: int, draws: Draws) -> Walk:
        """A walk of so many steps from the points of `batch`."""

    @abstractmethod
    def propose(self, step: int, squares: Squares, *, every: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the n pictures (m,) to ask about in a step, and their points (m, C, H * W)."""


@dataclass(frozen=True)
class LinfWalk(Walk):
    """Every value is at one of its two bounds; a square sets a channel to all of one kind."""

    corners: torch.Tensor
    """First pixel of every step's square in each channel, (n, steps, C)."""
    kinds: torch.Tensor
    """The same among `bounds`."""
    bounds: torch.Tensor
    """Lowest values of each channel's pixels, then the highest, (n, C, 2 * H * W)."""

    @staticmethod
    def side(share: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    @staticmethod
    def start(images: torch.Tensor, epsilon: float, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
        """Vertical stripes."""
        signs = _signs(draws.uniform(rows, images.shape[1], 1, images.shape[3]))
        return (images + epsilon * signs).clamp(0, 1)

    @classmethod
    def drawn(cls, batch: Batch, losses: torch.Tensor, squares: Squares, steps: int, draws: Draws) -> LinfWalk:
        import torch

        channels, pixels = batch.images.shape[1:]
        numbers = draws.uniform(batch.rows, steps, 2 + channels, shared=True)
        corners = squares.corners(numbers[..., :2])[..., None].expand(-1, -1, channels)
        low, high = (batch.images - squares.epsilon).clamp_(min=0), (batch.images + squares.epsilon).clamp_(max=1)
        return cls(**vars(batch), losses=losses, corners=corners, kinds=corners + pixels * (_signs(numbers[..., 2:]) > 0),
                   bounds=torch.cat((low, high), dim=2))

    def propose(self, step: int, squares: Squares, *, every: bool) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        pixels = squares.pixels(self.corners[:, step])
        tried = self.bounds.gather(2, squares.pixels(self.kinds[:, step]))
        if every:
            return torch.arange(len(self), device=pixels.device), self.points.scatter(2, pixels, tried)
        asked = (tried != self.points.gather(2, pixels)).flatten(1).any(1).nonzero()[:, 0]
        points, pixels, tried = (values.index_select(0, asked) for values in (self.points, pixels, tried))
        return asked, points.scatter_(2, pixels, tried)


@dataclass(frozen=True)
class L2Walk(Walk):
    """A square gets a bump and the length of the change that another square and it had; all is scaled to epsilon."""

    corners: torch.Tensor
    """First pixels of every step's two squares, (n, steps, 2)."""
    signs: torch.Tensor
    """Of the bump in each channel, 1 or -1, (n, steps, C)."""
    tall: torch.Tensor
    """int64 (n, steps): 1 where the bump is transposed, 0 where not."""

    @staticmethod
    def side(share: float, height: int, width: int) -> int:
        side = max(round(math.sqrt(share * height * width)), 3)
        return min(side + 1 - side % 2, height, width)

    @staticmethod
    def start(images: torch.Tensor, epsilon: float, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
        """A grid of bumps, five along the height."""
        import torch

        channels, height, width = images.shape[1:]
        side = max(height // 5, 1)
        edge = max((height - 5 * side) // 2, 0)
        bumps = _bumps(side).to(images.device).view(2, side, side)
        change = torch.zeros_like(images)
        for top in range(edge, edge + height // side * side, side):
            for left in range(edge, edge + width // side * side, side):
                tall = (draws.uniform(rows, 1, shared=True)[:, 0] > 0.5).long()
                bump = bumps[tall][:, None] * _signs(draws.uniform(rows, channels, 1, 1))
                place = change[:, :, top:top + side, left:left + side]
                place += bump[:, :, :place.shape[2], :place.shape[3]]
        return (images + epsilon * unit(change, "l2")).clamp(0, 1)

    @classmethod
    def drawn(cls, batch: Batch, losses: torch.Tensor, squares: Squares, steps: int, draws: Draws) -> L2Walk:
        numbers = draws.uniform(batch.rows, steps, 5, shared=True)
        signs = _signs(draws.uniform(batch.rows, steps, batch.images.shape[1]))
        corners = squares.corners(numbers[..., :4].unflatten(-1, (2, 2)))
        return cls(**vars(batch), losses=losses, corners=corners, signs=signs, tall=(numbers[..., 4] > 0.5).long())

    def propose(self, step: int, squares: Squares, *, every: bool) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        channels = self.points.shape[1]
        corners = self.corners[:, step, :, None].expand(-1, -1, channels)
        first, second = squares.pixels(corners).unbind(1)
        change = self.points - self.images
        unused = (squares.epsilon**2 - _power(change.flatten(1))).clamp_(min=0)[:, None]
        old = change.gather(2, first)
        power = _power(old)
        change.scatter_(2, first, 0.0)
        freed = power + _power(change.gather(2, second))
        change.scatter_(2, second, 0.0)
        bumps = _bumps(squares.side).to(change.device)[self.tall[:, step]][:, None] * self.signs[:, step, :, None]
        new = bumps + old / (power.sqrt() + TINY)
        new *= (unused / channels + freed).sqrt() / (_power(new).sqrt() + TINY)
        change.scatter_(2, first, new)
        points = (self.images + squares.epsilon * unit(change, "l2")).clamp_(0, 1)
        return torch.arange(len(self), device=points.device), points


WALKS: Mapping[Norm, type[Walk]] = MappingProxyType({"linf": LinfWalk, "l2": L2Walk})


def _signs(numbers: torch.Tensor) -> torch.Tensor:
    return (2 * numbers - 1).sign_()


def _power(values: torch.Tensor) -> torch.Tensor:
    """Sum of squares along the last axis, which stays."""
    return values.square().sum(-1, keepdim=True)


@lru_cache
def _bumps(side: int) -> torch.Tensor:
    """Two hills (2, side * side) of opposite signs, one above the other and, second, one beside the other; of length 1."""
    import torch

    upper = side // 2
    bump = torch.cat((_hill(upper, side), -_hill(side - upper, side)))
    bump /= bump.norm()
    return torch.stack((bump, bump.T)).flatten(1)


def _hill(height: int, width: int) -> torch.Tensor:
    """Concentric squares of heights 1, 1/4, 1/9, ... on top of each other, (height, width), of length 1 (equation 3)."""
    import torch

    away = torch.maximum((torch.arange(height)[:, None] - height // 2).abs(), (torch.arange(width) - width // 2).abs())
    layers = 1 / torch.arange(1, max(height // 2, width // 2) + 2) ** 2
    hill = layers.flip(0).cumsum(0).flip(0)[away]
    return hill / hill.norm()
