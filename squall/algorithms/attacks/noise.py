"""Random noise of the threat's size: the control that every attack has to beat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from squall.algorithms.attacks.base import Component, Oracle, Outcome, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import cw
from squall.algorithms.attacks.projections import noise_of_size
from squall.algorithms.attacks.rounds import Attempts, Batch, in_rounds

if TYPE_CHECKING:
    import torch


class Noise(Component):
    """Random changes of size epsilon, each asked about once, until one fools the model."""

    kind: ClassVar[str] = "noise"

    draws: int = Field(10, ge=1)
    """Changes that are tried on an image; each is a query."""

    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        def play(batch: Batch, attempts: Attempts) -> None:
            batch = replace(batch, points=noise_of_size(batch.images, threat, draws, batch.rows))
            logits = oracle.logits(batch.points, batch.rows)
            attempts.record(batch, logits)
            attempts.record_standing(batch.rows, batch.points, cw(logits, batch.labels))

        return in_rounds(self.kind, images, labels, [None] * self.draws, play)
