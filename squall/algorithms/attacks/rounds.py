"""What attacks of several rounds share: a batch that images leave once they are fooled, and the best attempt at each.

A round is a restart, or a class that is aimed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from squall.algorithms.attacks.base import Loss, Oracle, Outcome
from squall.algorithms.attacks.losses import LOSSES, LossName, runners_up

if TYPE_CHECKING:
    import torch

BatchT = TypeVar("BatchT", bound="Batch")


@dataclass(frozen=True)
class Batch:
    """Images under attack; tensors of n rows each. Attacks add their own state as fields."""

    rows: torch.Tensor
    """int64 (n,): which of the attack's B images each is."""
    images: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor | None
    """int64 (n,): the class that each is aimed at; None where any other class will do."""
    points: torch.Tensor
    """Where each image is now, shaped like `images`."""

    def __len__(self) -> int:
        return len(self.rows)

    def kept(self: BatchT, mask: torch.Tensor) -> BatchT:
        """Those of a bool (n,) mask."""
        if mask.all():
            return self
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[mask] for name, value in values.items() if value is not None})


class Attempts:
    """The best attempt at each of B images so far, and which of them are fooled."""

    def __init__(self, images: torch.Tensor) -> None:
        import torch

        self.points = images.clone()
        self.losses = torch.full((len(images),), float("-inf"), device=images.device)
        self.fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def record(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Note which points of `batch` fool the model by their `logits`, the latest of an image, and return which do not."""
        fooled = logits.argmax(1) != batch.labels
        rows = batch.rows[fooled]
        self.points[rows] = batch.points[fooled]
        self.fooled[rows] = True
        return ~fooled

    def record_standing(self, rows: torch.Tensor, points: torch.Tensor, losses: torch.Tensor) -> None:
        """The best attempts of a round at images that stand; the one with the highest loss counts."""
        better = (losses > self.losses[rows]) & ~self.fooled[rows]
        self.points[rows[better]] = points[better]
        self.losses[rows[better]] = losses[better]

    def standing(self) -> torch.Tensor:
        """int64 (n,): images that stand."""
        return (~self.fooled).nonzero()[:, 0]

    def outcome(self, kind: str) -> Outcome:
        return Outcome(self.points, self.fooled, tuple(kind if fooled else None for fooled in self.fooled.tolist()))


def objective(loss: LossName, batch: Batch) -> Loss:
    """The loss of a batch's logits."""
    return partial(LOSSES[loss], labels=batch.labels, targets=batch.targets)


def aims(oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, count: int) -> list[torch.Tensor | None]:
    """Classes (B,) to aim at in turn, the likeliest first, which costs a query; for a count of 0 any class will do."""
    import torch

    if not count:
        return [None]
    logits = oracle.logits(images, torch.arange(len(images), device=images.device))
    return list(runners_up(logits, labels, count).unbind(1))


def in_rounds(kind: str, images: torch.Tensor, labels: torch.Tensor, goals: Iterable[torch.Tensor | None],
              play: Callable[[Batch, Attempts], None]) -> Outcome:
    """Play a round for each goal (see `aims`) with the images that still stand, which begin where they are."""
    attempts = Attempts(images)
    for goal in goals:
        rows = attempts.standing()
        if len(rows):
            play(Batch(rows, images[rows], labels[rows], None if goal is None else goal[rows], images[rows]), attempts)
    return attempts.outcome(kind)
