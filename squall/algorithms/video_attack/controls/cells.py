"""Controls that switch cells on, as the agents do: the same distortion, the same grid, the same sweep of removal."""

from __future__ import annotations

import numpy as np

from squall.algorithms.video_attack.asking import Ask, BudgetSpent
from squall.algorithms.video_attack.controls.base import Control, Target
from squall.algorithms.video_attack.controls.search import Search
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.algorithms.video_attack.removal import removal_sweep


class CellControl(Control):
    """A control whose attempts are occupancies, int8 (blocks, rows, columns): the level of distortion in every cell."""

    def _search(self, ask: Ask, target: Target) -> Search[np.ndarray]:
        return Search(ask, target.label, target.config.max_queries, np.zeros(target.grid.shape, np.int8),
                      target.palette.compose, self.graded)

    def _outcome(self, search: Search[np.ndarray], target: Target) -> VideoOutcome:
        asked, trace = search.queries, tuple(search.trace)
        if search.fooled and target.config.removal:
            remove(search)
        return VideoOutcome(search.clip, search.fooled, asked, search.queries - asked, search.best, trace)


def remove(search: Search[np.ndarray]) -> None:
    """Take back the cells that the best attempt can do without, as far as the budget goes."""
    sweep = removal_sweep(search.best, np.flatnonzero(search.best).tolist())
    try:
        smaller = next(sweep)
        while True:
            smaller = sweep.send(search.still_fools(smaller))
    except (StopIteration, BudgetSpent):
        pass


def raised(occupancy: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The occupancy with cells, flat numbers that each come once, a level higher."""
    higher = occupancy.copy()
    higher.flat[cells] += 1
    return higher
