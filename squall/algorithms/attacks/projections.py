"""Where a changed image may lie: in the ball of the threat around the image, and in the box [0, 1].

The box is convex and holds the image, so that clipping to it never leaves a ball: what is projected lies in both. Lengths are
exact up to rounding in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from squall.algorithms.attacks.base import Norm, Threat
    from squall.algorithms.attacks.draws import Draws

TINY = 1e-12
BISECTIONS = 30


def project(points: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """`points` (n, ...) moved into the ball around `images` and into the box."""
    if threat.norm == "linf":
        return points.clamp(images - threat.epsilon, images + threat.epsilon).clamp(0, 1)
    change = points - images
    length = lengths(change, "l2")
    return (images + change / (length + TINY) * length.clamp(max=threat.epsilon)).clamp(0, 1)


def steepest(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The change of unit size that raises the loss most: signs for Linf, the unit gradient for L2; 0 where it is 0.

    However small a gradient is, its direction counts: squares that float32 rounds to 0 would let a model hide by being sure.
    """
    if norm == "linf":
        return gradient.sign()
    peaks = lengths(gradient, "linf")
    return unit(gradient / peaks.where(peaks > 0, 1.0), norm)


def unit(change: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Changes (n, ...) scaled to size 1; those that are 0 stay 0."""
    return change / (lengths(change, norm) + TINY)


def lengths(change: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Size of each change (n, ...), shaped (n, 1, ...)."""
    flat = change.flatten(1)
    sizes = flat.abs().amax(1) if norm == "linf" else (flat**2).sum(1).sqrt()
    return sizes.view(-1, *[1] * (change.ndim - 1))


def start_in_ball(images: torch.Tensor, threat: Threat, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
    """Points drawn uniformly from the ball around each image, then clipped to the box."""
    shape = images.shape[1:]
    if threat.norm == "linf":
        return (images + threat.epsilon * (2 * draws.uniform(rows, *shape) - 1)).clamp(0, 1)
    radius = draws.uniform(rows, *[1] * len(shape)) ** (1 / shape.numel())
    return project(images + threat.epsilon * radius * unit(draws.normal(rows, *shape), "l2"), images, threat)


def start_on_sphere(images: torch.Tensor, threat: Threat, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
    """Points at distance epsilon from each image in a random direction, then clipped to the box: where Auto-PGD starts."""
    shape = images.shape[1:]
    direction = 2 * draws.uniform(rows, *shape) - 1 if threat.norm == "linf" else draws.normal(rows, *shape)
    return (images + threat.epsilon * unit(direction, threat.norm)).clamp(0, 1)


def noise_of_size(images: torch.Tensor, threat: Threat, draws: Draws, rows: torch.Tensor) -> torch.Tensor:
    """Images with random noise whose size is epsilon after clipping to the box, or the most that the direction allows.

    Linf: every value goes up or down by epsilon. L2: a Gaussian direction, lengthened until the box leaves epsilon of it.
    """
    import torch

    shape = images.shape[1:]
    if threat.norm == "linf":
        signs = 2 * (draws.uniform(rows, *shape) >= 0.5).to(images.dtype) - 1
        return (images + threat.epsilon * signs).clamp(0, 1)
    direction = unit(draws.normal(rows, *shape), "l2")
    low = torch.full_like(lengths(direction, "l2"), threat.epsilon)
    high = 64 * low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        short = lengths((images + middle * direction).clamp(0, 1) - images, "l2") <= threat.epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (images + low * direction).clamp(0, 1)
