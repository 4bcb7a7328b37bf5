"""Flips and shifts of training images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from squall.platform.config import Config

if TYPE_CHECKING:
    import torch


class AugmentConfig(Config):
    """How training images are varied; all off by default."""

    flip: bool = False
    """Mirror half of the images left to right."""
    vertical_flip: bool = False
    """Turn half of the images upside down (the published code does)."""
    shift: float = Field(0.0, ge=0, lt=1)
    """Shift by up to this fraction of height and width; what comes in is black."""

    @property
    def active(self) -> bool:
        """Whether images change at all."""
        return self.flip or self.vertical_flip or self.shift > 0


def augment(config: AugmentConfig, images: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Vary images (B, ..., H, W) by uniform numbers (B, 4): mirrored, upside down, shift down, shift right.

    All frames of a clip move alike.
    """
    import torch

    height, width = images.shape[-2:]
    down, right = (math.floor(config.shift * side) for side in (height, width))
    mirrored, turned = config.flip * 0.5 > chance[:, 0], config.vertical_flip * 0.5 > chance[:, 1]
    offsets = (chance[:, 2:] * torch.tensor([2 * down + 1, 2 * right + 1])).long()
    padded = torch.nn.functional.pad(images, (right, right, down, down))
    return torch.stack([_view(image[..., y:y + height, x:x + width], flip, turn) for image, (y, x), flip, turn in zip(
        padded, offsets.tolist(), mirrored.tolist(), turned.tolist(), strict=True)])


def _view(image: torch.Tensor, mirrored: bool, turned: bool) -> torch.Tensor:
    sides = [side for side, wanted in ((-1, mirrored), (-2, turned)) if wanted]
    return image.flip(sides) if sides else image
