"""What the measurements of a model's gradients share: the path of PGD without an early stop, directions, seeded noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from squall.algorithms.attacks.base import Model, Oracle, Threat
from squall.algorithms.attacks.draws import Draws

LabelledLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(B,) of logits (B, K) and labels (B,)."""


@dataclass(frozen=True)
class PathPoint:
    """One point of B paths, before a step goes on from it."""

    images: torch.Tensor
    """(B, ...), within the threat and in [0, 1]."""
    gradient: torch.Tensor
    """(B, ...): of the loss by the image."""


def pgd_path(oracle: Oracle, images: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, threat: Threat, steps: int,
             draws: Draws, step_size: float | None = None, loss: LabelledLoss | None = None) -> Iterator[PathPoint]:
    """Points 0 to `steps` of projected gradient ascent (Madry et al. 2018, arXiv 1706.06083, section 2.1).

    It starts uniformly within the ball, goes on where an image is fooled already, and takes a backward pass at its last
    point too: it is there to be measured.

    Args:
        images: (B, ...) in [0, 1], of which row i counts as the oracle's image ``rows[i]`` and draws from its stream.
        step_size: in the threat's norm; 2.5 epsilon over `steps` by default, so that a path can cross the ball.
        loss: cross-entropy by default.
    """
    size = 2.5 * threat.epsilon / steps if step_size is None else step_size
    points = _inside(images + threat.epsilon * unit_ball(draws, rows, 1, images, threat.norm)[:, 0], images, threat)
    for step in range(steps + 1):
        gradient = gradient_of(oracle, points, rows, labels, loss)
        yield PathPoint(points, gradient)
        if step < steps:
            ascent = gradient.sign() if threat.norm == "linf" else directions(gradient).to(gradient.dtype)
            points = _inside(points + size * ascent, images, threat)


def gradient_of(oracle: Oracle, images: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor,
                loss: LabelledLoss | None = None) -> torch.Tensor:
    """Gradient of each image's loss, by default its cross-entropy, shaped like `images` (B, ...)."""
    chosen = cross_entropy if loss is None else loss
    return oracle.gradient(images, rows, lambda logits: chosen(logits, labels))[2]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image, (B,), in nats."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def entropy_bits(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each prediction, (B,) float64, in bits: 0 where the model is sure, log2 K where it is uniform over K."""
    return torch.special.entr(logits.double().softmax(1)).sum(1) / math.log(2)


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each of B vectors (B, ...), (B,) float64, where the squares are too small for any float too."""
    flat = vectors.flatten(1).double()
    peaks = flat.abs().amax(1)
    return peaks * (flat / peaks.where(peaks > 0, 1.0)[:, None]).norm(dim=1)


def directions(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, shaped like `vectors` (B, ...), in float64; zero where a vector is zero."""
    flat = vectors.flatten(1).double()
    peaks = flat.abs().amax(1, keepdim=True)
    scaled = flat / peaks.where(peaks > 0, 1.0)
    norms = scaled.norm(dim=1, keepdim=True)
    return (scaled / norms.where(norms > 0, 1.0)).view(vectors.shape)


def unit_ball(draws: Draws, rows: torch.Tensor, count: int, images: torch.Tensor, norm: str = "l2") -> torch.Tensor:
    """`count` points for each of B images, uniform in the ball of radius 1: (B, count, ...) beside `images` (B, ...)."""
    shape = tuple(images.shape[1:])
    if norm == "linf":
        return draws.uniform(rows, count, *shape) * 2 - 1
    ways = directions(draws.normal(rows, count, *shape).flatten(0, 1)).view(len(rows), count, *shape)
    radii = draws.uniform(rows, count).double() ** (1 / math.prod(shape))
    return (ways * radii.view(len(rows), count, *[1] * len(shape))).to(images.dtype)


def in_float64(model: Model, image: torch.Tensor) -> Model | None:
    """The same model in float64; None for one that is no module or does not run in it. `image` (...) is tried."""
    if not isinstance(model, torch.nn.Module):
        return None
    try:
        twin = copy.deepcopy(model).double()
        with torch.inference_mode():
            logits = twin(image[None].double())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # how torch says that a type is written into the model
        return None
    return twin if logits.dtype == torch.float64 else None


def _inside(points: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    change = points - images
    if threat.norm == "linf":
        change = change.clamp(-threat.epsilon, threat.epsilon)
    else:
        excess = (lengths(change) / threat.epsilon).clamp(min=1).to(change)
        change = change / excess.view(-1, *[1] * (change.ndim - 1))
    return (images + change).clamp(0, 1)
