"""What attacks refuse: images outside the box or of another shape, labels that are no class, a budget that is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from squall.platform.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from squall.algorithms.attacks.base import Threat

ANY_CLASS = 2**63 - 1


def check_images(images: torch.Tensor, labels: torch.Tensor, *, shape: tuple[int, ...] | None = None,
                 classes: int | None = None) -> None:
    """Raise DataError unless `images` are float32 (B, ...) in [0, 1] and `labels` are int64 (B,) of known classes.

    Args:
        shape: of one image, where it is known.
        classes: how many there are, where it is known.
    """
    import torch

    if images.dtype != torch.float32:
        raise DataError(f"images are {_name(images.dtype)}; expected float32 in [0, 1] (uint8 pixels: divide by 255)")
    expected = f"({', '.join(['images', *map(str, shape or ('...',))])})"
    if images.ndim < 2 or shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise DataError(f"images have shape {tuple(images.shape)}; expected {expected}", reason="shape")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(f"labels are {_name(labels.dtype)} {tuple(labels.shape)}; expected int64 ({len(images)},),"
                        " one for each image", reason="shape")
    if len(images) == 0:
        return
    _check_box(images)
    _check_labels(labels, classes)


def check_threat(threat: Threat, shape: tuple[int, ...]) -> None:
    """Raise ConfigError where epsilon is more than any change within the box of an image of this shape."""
    limit = 1.0 if threat.norm == "linf" else math.sqrt(math.prod(shape))
    if threat.epsilon > limit:
        raise ConfigError(f"epsilon = {threat.epsilon:g} for {threat.norm} is above the box: pixel values are in [0, 1], so no"
                          f" change of an image {tuple(shape)} is larger than {limit:g}; give that for an unlimited attack, and"
                          " divide by 255 what is meant for pixels from 0 to 255")


def check_attack(images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int]) -> None:
    """What every attack asks of its arguments: `check_images`, `check_threat`, and a seed for each image."""
    check_images(images, labels)
    check_threat(threat, tuple(images.shape[1:]))
    if len(seeds) != len(images):
        raise DataError(f"{len(seeds)} seeds for {len(images)} images; expected one for each")


def _check_box(images: torch.Tensor) -> None:
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= 0 and high <= 1):
        wrong = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
        raise DataError(f"image {int(wrong.nonzero()[0])} of {len(images)} ({int(wrong.sum())} in all) has values outside"
                        f" [0, 1] (from {low:g} to {high:g}); scale pixels to [0, 1] and leave normalisation to the model",
                        reason="outside_box")


def _check_labels(labels: torch.Tensor, classes: int | None) -> None:
    wrong = (labels < 0) | (labels >= (classes or ANY_CLASS))
    if wrong.any():
        position = int(wrong.nonzero()[0])
        allowed = f"from 0 to {classes - 1}" if classes else "0 or more"
        raise DataError(f"label {int(labels[position])} of image {position} is no class; allowed: {allowed}", reason="label")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
