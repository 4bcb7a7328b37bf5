"""Projected gradient descent (Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", section 2.1).

One step from the image itself (``steps: 1, random_start: false``) is the fast gradient sign method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field, model_validator

from squall.algorithms.attacks.base import Component, Loss, Oracle, Outcome, Threat
from squall.algorithms.attacks.checks import check_attack
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import LossName
from squall.algorithms.attacks.projections import project, start_in_ball, steepest
from squall.algorithms.attacks.rounds import Attempts, Batch, aims, in_rounds, objective

if TYPE_CHECKING:
    import torch


class PGD(Component):
    """Steps along the gradient's sign (Linf) or direction (L2), each projected into the threat and the box."""

    kind: ClassVar[str] = "pgd"

    steps: int = Field(20, ge=1)
    """Gradient steps of a round."""
    step_size: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Length of a step as a fraction of epsilon. Without one 2.5 / steps, and 1 at most."""
    restarts: int = Field(1, ge=1)
    """Rounds against an image that stands, each from another point (and for each target)."""
    random_start: bool = True
    """Begin at a point drawn uniformly from the ball and clipped to the box; otherwise at the image."""
    loss: LossName = "ce"
    """`ce`: cross-entropy; `dlr`: difference of logits ratio; `cw`: difference of logits. The last two do not saturate."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Logits are divided by it before the loss: a large one brings the gradients of saturated logits back."""
    targets: int = Field(0, ge=0)
    """Aim at this many of the likeliest other classes in turn; 0: at none in particular."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> PGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"{self.restarts} restarts without random_start are the same round; allow it, or restart once")
        return self

    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        goals = [goal for goal in aims(oracle, images, labels, self.targets) for _ in range(self.restarts)]

        def play(batch: Batch, attempts: Attempts) -> None:
            self._climb(oracle, self._started(batch, threat, draws), attempts, threat)

        return in_rounds(self.kind, images, labels, goals, play)

    def _started(self, batch: Batch, threat: Threat, draws: Draws) -> Batch:
        if not self.random_start:
            return batch
        return replace(batch, points=start_in_ball(batch.images, threat, draws, batch.rows))

    def _climb(self, oracle: Oracle, batch: Batch, attempts: Attempts, threat: Threat) -> None:
        for _ in range(self.steps):
            logits, _, gradient = oracle.gradient(batch.points, batch.rows, self._loss(batch))
            stands = attempts.record(batch, logits)
            batch = self._moved(batch, gradient, threat).kept(stands)
            if not len(batch):
                return
        logits = oracle.logits(batch.points, batch.rows)
        attempts.record(batch, logits)
        attempts.record_standing(batch.rows, batch.points, self._loss(batch)(logits))

    def _moved(self, batch: Batch, gradient: torch.Tensor, threat: Threat) -> Batch:
        size = threat.epsilon * (self.step_size or min(1.0, 2.5 / self.steps))
        return replace(batch, points=project(batch.points + size * steepest(gradient, threat.norm), batch.images, threat))

    def _loss(self, batch: Batch) -> Loss:
        loss = objective(self.loss, batch)
        return lambda logits: loss(logits / self.temperature)


class PathStep(NamedTuple):
    """Where PGD is before a step, of all B images."""

    points: torch.Tensor
    logits: torch.Tensor
    losses: torch.Tensor
    gradient: torch.Tensor
    """Of the loss by the pixels, shaped like `points`."""


def pgd_path(attack: PGD, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int]
             ) -> Iterator[PathStep]:
    """The ``attack.steps`` gradients along the way of untargeted PGD, of all images, whether they are fooled or not.

    Args and errors as of `PGD.run`.
    """
    import torch

    check_attack(images, labels, threat, seeds)
    rows = torch.arange(len(images), device=images.device)
    batch = attack._started(Batch(rows, images, labels, None, images), threat, Draws(seeds, images.device))
    for _ in range(attack.steps):
        step = PathStep(batch.points, *oracle.gradient(batch.points, rows, attack._loss(batch)))
        yield step
        batch = attack._moved(batch, step.gradient, threat)
