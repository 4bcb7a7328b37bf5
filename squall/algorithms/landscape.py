"""The loss around an image, along the direction of an attack and a random one: a picture of what gradients have to go by.

After the landscape plots in the code of arXiv 2606.12251, with directions measured in the attack's own norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from squall.algorithms.attacks.base import Norm, Oracle, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import ce
from squall.algorithms.attacks.pgd import PGD, pgd_path
from squall.platform.config import Config
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch


class LandscapeConfig(Config):
    """How a loss landscape is drawn."""

    points_per_side: int = Field(30, gt=0)
    """Grid points to either side of the image, along each direction: 30 give a grid of 61 x 61."""
    extent: float = Field(3.0, gt=0)
    """How far the grid reaches to either side, in epsilons."""
    steps: int = Field(50, ge=2)
    """Points of the PGD whose last one gives the first direction."""
    clip: bool = True
    """Bring points back into [0, 1], as an attack must. Without it the picture also shows what is no image."""
    points_per_pass: int = Field(256, gt=0)
    """Images that go through the model at once. It bounds memory and changes no result."""


class LandscapeRecord(Config):
    """A landscape in a few numbers."""

    norm: Norm
    epsilon: float
    extent: float
    points_per_side: int
    clipped: bool
    attack_fooled: bool
    """PGD's last point is of another class than the image's label."""
    loss_centre: float
    loss_highest: float
    """Within epsilon."""
    roughness: float
    """How far the loss lies off the straight line between a grid point's two neighbours along the first direction, on average
    within epsilon: the mean absolute second difference, halved, in nats."""
    plateau: float
    """Fraction of neighbours along the first direction, within epsilon, with exactly the same loss: a gradient says nothing
    there. Near 0 for a smooth model."""
    wrong: float
    """Fraction of grid points within epsilon, along both directions, that are of another class."""


@dataclass(frozen=True)
class Landscape:
    """Loss and correctness of N x N points ``x + first * d1 + second * d2``."""

    axis: np.ndarray
    """float64 (N,): coordinates of both directions, in the threat's norm."""
    loss: np.ndarray
    """float32 (N, N), first by second: cross-entropy in nats."""
    correct: np.ndarray
    """bool (N, N)."""
    record: LandscapeRecord


def loss_landscape(oracle: Oracle, image: torch.Tensor, label: int, threat: Threat, seed: int,
                   config: LandscapeConfig) -> Landscape:
    """The landscape around one image (...), the oracle's image 0.

    d1 points from the image to the end of PGD's path; d2 is random, at right angles to d1 and as long in Euclidean terms. d1
    has length 1 in the threat's norm, so that coordinates compare with epsilon. It takes N^2 forward passes, and `steps`
    backward passes with a forward pass each.

    Raises:
        DataError: an image or a label that is unsound, a model's output or gradient that is not finite.
        ConfigError: an epsilon above the box.
    """
    import torch

    images, labels = image[None], torch.tensor([label], device=image.device)
    *_, end = pgd_path(PGD(steps=config.steps), oracle, images, labels, threat, [seed])
    first, second = _plane(end.points - images, Draws([derive_seed(seed, "landscape")], image.device), threat.norm)
    count = 2 * config.points_per_side + 1
    axis = np.linspace(-config.extent, config.extent, count) * threat.epsilon
    steps = torch.as_tensor(axis, dtype=image.dtype, device=image.device)
    losses, correct = [], []
    for pair in torch.cartesian_prod(steps, steps).split(config.points_per_pass):
        points = images + torch.tensordot(pair, torch.cat([first, second]), 1)
        logits = oracle.logits(points.clamp(0, 1) if config.clip else points, pair.new_zeros(len(pair), dtype=torch.int64))
        losses.append(ce(logits, labels.expand(len(pair))))
        correct.append(logits.argmax(1) == label)
    loss, right = (torch.cat(column).view(count, count).cpu().numpy() for column in (losses, correct))
    fooled = bool(end.logits.argmax() != label)
    return Landscape(axis, loss, right, _record(axis, loss, right, threat, config, fooled))


def _plane(change: torch.Tensor, draws: Draws, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    """Both directions, (1, ...), given a change of the image (1, ...); without any, the first is random too."""
    from squall.algorithms.gradient_geometry import directions

    rows = change.new_zeros(1).long()
    if not change.any():
        change = draws.normal(rows, *change.shape[1:])
    first = directions(change)
    other = draws.normal(rows, *change.shape[1:]).double()
    second = directions(other - (other * first).sum() * first)
    length = first.abs().max() if norm == "linf" else first.new_ones(())
    return (first / length).to(change), (second / length).to(change)


def _record(axis: np.ndarray, loss: np.ndarray, right: np.ndarray, threat: Threat, config: LandscapeConfig,
            fooled: bool) -> LandscapeRecord:
    """`axis` (N,) of odd N, `loss` and `right` (N, N): the image itself is in the middle."""
    middle = len(axis) // 2
    near = np.abs(axis) <= threat.epsilon * (1 + 1e-9)
    inner = loss[np.ix_(near, near)].astype(np.float64)
    slopes, bends = np.diff(inner, axis=0), np.diff(inner, 2, axis=0)
    return LandscapeRecord(
        norm=threat.norm, epsilon=threat.epsilon, extent=config.extent, points_per_side=config.points_per_side,
        clipped=config.clip, attack_fooled=fooled, loss_centre=_figure(float(loss[middle, middle])),
        loss_highest=_figure(float(inner.max())),
        roughness=_figure(np.abs(bends).mean() / 2 if bends.size else 0.0),
        plateau=_figure((slopes == 0).mean() if slopes.size else 0.0), wrong=_figure(1 - right[np.ix_(near, near)].mean()))


def _figure(number: float) -> float:
    """To six digits, below which the order of a sum shows."""
    return float(f"{number:.6g}")
