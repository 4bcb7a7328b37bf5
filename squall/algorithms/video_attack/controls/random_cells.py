"""Random cells: what the distortion does by itself, without anybody who chooses."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from squall.algorithms.video_attack.actions import action_sizes, moved
from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.cells import CellControl, raised
from squall.algorithms.video_attack.controls.search import Search


class RandomCells(CellControl):
    """Raise random cells by a level, more at every question; begin anew from the clean clip once all are at the top."""

    kind: ClassVar[str] = "random_cells"
    graded: ClassVar[bool] = False

    moves: Literal["tubes", "cells"] = "tubes"
    """`tubes` makes the moves of the two agents at random: `cells_per_step` places through a run of blocks. `cells` raises as
    many single cells."""

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        move = self._tubes if self.moves == "tubes" else self._cells
        while True:
            occupancy = np.zeros(target.grid.shape, np.int8)
            while (occupancy < target.config.levels).any():
                occupancy = move(occupancy, target, rng)
                search.ask([occupancy])

    def _tubes(self, occupancy: np.ndarray, target: Target, rng: np.random.Generator) -> np.ndarray:
        room = (occupancy < target.config.levels).any(0).ravel().nonzero()[0]
        places, nothing_removed = rng.choice(room, target.config.cells_per_step), [target.grid.places]
        run = rng.integers(action_sizes(target.grid, target.config)["temporal"])
        return moved(occupancy, [*places, *nothing_removed], run, target.config, target.grid)

    def _cells(self, occupancy: np.ndarray, target: Target, rng: np.random.Generator) -> np.ndarray:
        free = np.flatnonzero(occupancy < target.config.levels)
        return raised(occupancy, rng.permutation(free)[:target.config.cells_per_step])
