"""Greedy search by sensitivity, as in RLAB's published code (Sarkar et al., AAAI 2025, arXiv 2501.14122).

A sweep tries every place alone on top of what is distorted, and the most sensitive are kept. The sweep is what it costs: places
and one queries a step. The published code knows no removal, though the paper's dual action has it; here cells that the flip
does not need are taken back at the end.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.cells import CellControl, raised
from squall.algorithms.video_attack.controls.search import Search
from squall.algorithms.video_attack.grid import CellGrid


class Greedy(CellControl):
    """Sweep over the grid, raise what told most, and so on."""

    kind: ClassVar[str] = "greedy"

    moves: Literal["tubes", "cells"] = "tubes"
    """What a sweep tries and a step raises: `tubes` are places through all blocks, like RLAB's patches of a picture; `cells`
    are single cells, whose sweeps cost as many times more as the clip has blocks."""
    at_once: int = Field(1, ge=1)
    """Clips of a batch, where several questions are known beforehand. More go faster, and a batch counts whole, also where one
    in it fools."""
    raised_per_step: int = Field(2, ge=1)
    """Most sensitive tubes or cells that are raised together; 2 in the published code."""
    steps_per_sweep: int | None = Field(1, ge=1)
    """Steps that go by the order of one sweep before the next; 1 in the published code. None sweeps once for each level."""

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        occupancy, units = np.zeros(target.grid.shape, np.int8), self._units(target.grid)
        while len(free := units[occupancy.flat[units[:, 0]] < target.config.levels]):
            probabilities, margins = search.ask((raised(occupancy, unit) for unit in free), self.at_once)
            order = free[most_sensitive(probabilities, margins)]
            for first in range(0, len(order), self.raised_per_step)[:self.steps_per_sweep]:
                occupancy = raised(occupancy, order[first:first + self.raised_per_step].ravel())
                search.ask([occupancy])

    def _units(self, grid: CellGrid) -> np.ndarray:
        """Flat numbers of the cells of each tube or cell, (n, cells)."""
        cells = np.arange(grid.count)
        return cells.reshape(-1, grid.places).T if self.moves == "tubes" else cells[:, None]

    def _least_queries(self, grid: CellGrid) -> int:
        return 2 + len(self._units(grid))


def most_sensitive(probabilities: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Order of n trials by what they left of the label's probability (n,); where that tells none apart, by the margins.

    The published score is how far `probability_dilution` rises above that before the trial, which gives the same order.
    """
    return np.lexsort((margins, -probability_dilution(probabilities)))


def probability_dilution(probabilities: np.ndarray) -> np.ndarray:
    """PD = 1 / log10 p, negative, and nearer to 0 the less of the label is left: -21.85 at 0.9, -3.32 at 0.5, -1 at 0.1."""
    return 1 / np.log10(np.clip(probabilities, 1e-30, 1 - 1e-15))
