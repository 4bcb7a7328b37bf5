"""Square Attack (Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack").

Each question to the model tries one change at a random square of the image; what lowers the margin of the label stays. Squares
shrink as the search goes on. Only logits are asked for, so that a model without useful gradients is no obstacle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from squall.algorithms.attacks.base import Component, Oracle, Outcome, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import cw
from squall.algorithms.attacks.rounds import Attempts, Batch
from squall.algorithms.attacks.squares import WALKS, Squares, Walk
from squall.platform.errors import DataError

if TYPE_CHECKING:
    import torch

HALVINGS = (11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
"""Steps at which the squares' share of the image is halved, as the paper has it for 10,000 steps."""
SPAN = 100
"""Steps for which random numbers are drawn at a time, and after which those that stand are put into batches anew."""
BATCH = 256
"""Images that are asked about at a time on a CPU."""


class Square(Component):
    """Random search by squares: stripes and signs for Linf; for L2 bumps that take over the length of others."""

    kind: ClassVar[str] = "square"

    queries: int = Field(5000, ge=1)
    """Changes tried on an image that stands, after the first question."""
    p_init: float = Field(0.8, gt=0, le=1)
    """Share of the image that the first squares cover."""

    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        if images.ndim < 4:
            raise DataError("square needs pictures (B, channels, height, width) or clips (B, channels, frames, height, width),"
                            f" got images of shape {tuple(images.shape)}", reason="shape")
        attempts = Attempts(images)
        kind = WALKS[threat.norm]
        rows = attempts.standing()
        points = kind.start(images.flatten(1, -3), threat.epsilon, draws, rows).view_as(images)
        _begin(oracle, Batch(rows, images, labels, None, points), attempts)
        for share, steps in self._spans(1 if draws.together else SPAN):
            squares = Squares(*images.shape[-2:], kind.side(share, *images.shape[-2:]), threat.epsilon)
            for rows in _batches(attempts.standing(), draws):
                planes = [values[rows].flatten(1, -3).flatten(2) for values in (images, attempts.points)]
                batch = Batch(rows, planes[0], labels[rows], None, planes[1])
                walk = kind.drawn(batch, attempts.losses[rows], squares, steps, draws)
                _search(oracle, walk, squares, steps, attempts, every=draws.together)
        return attempts.outcome(self.kind)

    def _spans(self, longest: int) -> Iterator[tuple[float, int]]:
        """Share of the image that a square covers, and for how many steps."""
        for halvings, (first, last) in enumerate(pairwise((0, *HALVINGS, max(self.queries, HALVINGS[-1])))):
            last = min(last, self.queries)
            for step in range(first, last, longest):
                yield self.p_init / 2**halvings, min(longest, last - step)


def _begin(oracle: Oracle, batch: Batch, attempts: Attempts) -> None:
    logits = oracle.logits(batch.points, batch.rows)
    attempts.record(batch, logits)
    attempts.record_standing(batch.rows, batch.points, cw(logits, batch.labels))


def _batches(rows: torch.Tensor, draws: Draws) -> Iterable[torch.Tensor]:
    """All at once in a replay and on a GPU; on a CPU as many as its cache holds."""
    if not len(rows):
        return ()
    return rows.split(len(rows) if draws.together or rows.is_cuda else BATCH)


def _search(oracle: Oracle, walk: Walk, squares: Squares, steps: int, attempts: Attempts, *, every: bool) -> None:
    """Try a change in each of the steps; images that are fooled leave at once.

    Args:
        every: ask even about squares that change nothing, as the authors' code does; a deterministic model has answered that.
    """
    shape = attempts.points.shape[1:]
    for step in range(steps):
        asked, candidates = walk.propose(step, squares, every=every)
        if not len(asked):
            continue
        labels = walk.labels.index_select(0, asked)
        logits = oracle.logits(candidates.view(-1, *shape), walk.rows.index_select(0, asked))
        losses = cw(logits, labels)
        better = (losses > walk.losses.index_select(0, asked)).nonzero()[:, 0]
        kept = asked.index_select(0, better)
        walk.points[kept] = candidates.index_select(0, better)
        walk.losses[kept] = losses.index_select(0, better)
        if not (losses >= 0).any():
            continue
        wrong = logits.argmax(1) != labels
        rows = walk.rows[asked[wrong]]
        attempts.points[rows] = candidates[wrong].view(-1, *shape)
        attempts.fooled[rows] = True
        walk = walk.kept(~attempts.fooled[walk.rows])
        if not len(walk):
            return
    attempts.record_standing(walk.rows, walk.points.view(-1, *shape), walk.losses)
