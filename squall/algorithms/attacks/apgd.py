"""Auto-PGD (Croce & Hein 2020, "Reliable evaluation of adversarial robustness ...", algorithm 1 and section 3).

A step looks ahead along the gradient and adds momentum. At checkpoints, which come ever closer, an image whose loss rose in too
few steps, or whose best loss and step size have both stayed, halves its step and returns to its best point.
As in the authors' code the first step counts as a rise where its loss is above 0, and the start lies on the ball's surface.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from squall.algorithms.attacks.base import Component, Oracle, Outcome, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import LossName
from squall.algorithms.attacks.projections import project, start_on_sphere, unit
from squall.algorithms.attacks.rounds import Attempts, Batch, aims, in_rounds, objective

if TYPE_CHECKING:
    import torch

RHO = 0.75
"""An image whose loss rose in fewer of the steps since the last checkpoint than this fraction halves its step."""
MOMENTUM = 0.75
"""Weight of the new step; the last change gets the rest."""
FIRST_STEP = 2.0
"""Length of a step before any is halved, in epsilons."""
CHECKPOINTS = (0.22, 0.03, 0.06)
"""Fractions of all steps: until the first checkpoint, by how much each further gap is shorter, and the shortest gap."""


class APGD(Component):
    """Auto-PGD; kinds differ in the loss that they climb."""

    loss: ClassVar[LossName]

    steps: int = Field(100, ge=1)
    """Gradient steps of a round."""
    restarts: int = Field(1, ge=1)
    """Rounds against an image that stands, each from another random point (and for each target)."""

    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        goals = [goal for goal in aims(oracle, images, labels, self._targets) for _ in range(self.restarts)]
        return in_rounds(self.kind, images, labels, goals, partial(self._climb, oracle, threat, draws))

    @property
    def _targets(self) -> int:
        return 0

    def _climb(self, oracle: Oracle, threat: Threat, draws: Draws, batch: Batch, attempts: Attempts) -> None:
        batch = replace(batch, points=start_on_sphere(batch.images, threat, draws, batch.rows))
        logits, losses, gradient = oracle.gradient(batch.points, batch.rows, objective(self.loss, batch))
        climb = _Climb.begun(batch, losses, gradient, threat).left(attempts.record(batch, logits), draws)
        gap = max(int(CHECKPOINTS[0] * self.steps), 1)
        checkpoint = gap
        for step in range(1, self.steps + 1):
            if not len(climb):
                return
            climb = climb.moved(threat, MOMENTUM if step > 1 else 1.0)
            logits, losses, gradient = self._ask(oracle, climb, last=step == self.steps)
            climb = climb.judged(losses, gradient).left(attempts.record(climb, logits), draws)
            if step == checkpoint:
                climb = climb.checked(gap)
                gap = max(gap - max(int(CHECKPOINTS[1] * self.steps), 1), int(CHECKPOINTS[2] * self.steps), 1)
                checkpoint += gap
        attempts.record_standing(climb.rows, climb.best_points, climb.best_losses)

    def _ask(self, oracle: Oracle, climb: _Climb, last: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        loss = objective(self.loss, climb)
        if not last:
            return oracle.gradient(climb.points, climb.rows, loss)
        logits = oracle.logits(climb.points, climb.rows)
        return logits, loss(logits), climb.gradient


class APGDCE(APGD):
    """Auto-PGD on the cross-entropy."""

    kind: ClassVar[str] = "apgd-ce"
    loss: ClassVar[LossName] = "ce"


class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio."""

    kind: ClassVar[str] = "apgd-dlr"
    loss: ClassVar[LossName] = "dlr"


class APGDT(APGD):
    """Auto-PGD on the targeted difference of logits ratio, a round for each of the likeliest other classes."""

    kind: ClassVar[str] = "apgd-t"
    loss: ClassVar[LossName] = "dlr"

    targets: int = Field(9, ge=1)
    """How many classes are aimed at; no more than there are."""

    @property
    def _targets(self) -> int:
        return self.targets


@dataclass(frozen=True)
class _Climb(Batch):
    """State of n images."""

    previous: torch.Tensor
    """Their points before the last step."""
    gradient: torch.Tensor
    losses: torch.Tensor
    """At their points, (n,)."""
    rises: torch.Tensor
    """Steps since the last checkpoint in which the loss rose, (n,)."""
    best_points: torch.Tensor
    best_gradient: torch.Tensor
    best_losses: torch.Tensor
    step: torch.Tensor
    """Step size, (n, 1, ...)."""
    checked_losses: torch.Tensor
    """`best_losses` at the last checkpoint."""
    halved: torch.Tensor
    """bool (n,): the step was halved at the last checkpoint."""

    @classmethod
    def begun(cls, batch: Batch, losses: torch.Tensor, gradient: torch.Tensor, threat: Threat) -> _Climb:
        import torch

        step = torch.full((len(batch), *[1] * (batch.images.ndim - 1)), FIRST_STEP * threat.epsilon, device=losses.device)
        return cls(
            **vars(batch), previous=batch.points, gradient=gradient, losses=torch.zeros_like(losses),
            rises=torch.zeros_like(losses), best_points=batch.points, best_gradient=gradient, best_losses=losses, step=step,
            checked_losses=losses, halved=torch.ones_like(losses, dtype=torch.bool))

    def left(self, stands: torch.Tensor, draws: Draws) -> _Climb:
        """Without those that are fooled, except in a replay."""
        return self if draws.together else self.kept(stands)

    def moved(self, threat: Threat, momentum: float) -> _Climb:
        """After a step (equation in section 3.1 of the paper)."""
        points = self.points
        uphill = self.gradient.sign() if threat.norm == "linf" else unit(self.gradient, threat.norm)  # as published
        ahead = project(points + self.step * uphill, self.images, threat)
        moved = points + (ahead - points) * momentum + (points - self.previous) * (1 - momentum)
        return replace(self, points=project(moved, self.images, threat), previous=points)

    def judged(self, losses: torch.Tensor, gradient: torch.Tensor) -> _Climb:
        """With the loss and the gradient at the new points."""
        better = losses > self.best_losses
        wide = better.view_as(self.step)
        return replace(
            self, losses=losses, gradient=gradient, rises=self.rises + (losses > self.losses),
            best_points=self.points.where(wide, self.best_points), best_gradient=gradient.where(wide, self.best_gradient),
            best_losses=losses.where(better, self.best_losses))

    def checked(self, gap: int) -> _Climb:
        """After a checkpoint: conditions 1 and 2 of section 3.2."""
        halved = (self.rises <= RHO * gap) | (~self.halved & (self.checked_losses >= self.best_losses))
        wide = halved.view_as(self.step)
        return replace(
            self, step=(self.step / 2).where(wide, self.step), points=self.best_points.where(wide, self.points),
            gradient=self.best_gradient.where(wide, self.gradient), rises=self.rises * 0,
            checked_losses=self.best_losses, halved=halved)
