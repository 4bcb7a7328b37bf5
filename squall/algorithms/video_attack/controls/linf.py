"""Controls that change no value of a pixel by more than epsilon, and the walk by NES that three of them share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.controls.base import Control, Target
from squall.algorithms.video_attack.controls.search import Search
from squall.algorithms.video_attack.grid import CellGrid


class LinfControl(Control):
    """A control whose changes have a bound on every value."""

    epsilon: float | None = Field(None, ge=1 / 255, le=1)
    """Most that a value of a pixel changes, with pixels in [0, 1]; 0.05 in SVA and AstFocus. By default the Linf distance
    between the clip and its distorted self at the highest level: as much as attackers of cells may change a value."""

    def levels(self, target: Target) -> int:
        """Epsilon in whole grey levels, 1 to 255, rounded down: clips are asked about as uint8."""
        if self.epsilon is not None:
            return int(self.epsilon * 255 + 1e-6)
        return max(int(np.abs(target.palette.levels[-1].astype(np.int16) - target.clip).max()), 1)


class NesControl(LinfControl):
    """Natural evolution strategies on a field with one value for each block of frames, cell and colour.

    Ilyas et al. 2018 (arXiv 1804.08598, algorithm 1): antithetic pairs of Gaussian directions estimate the gradient of the
    margin, and every value takes a step by its sign. The grid, and steps that shorten when the margin stalls, are SVA's.
    """

    samples: int = Field(24, ge=2, multiple_of=2)
    """Clips asked about for one gradient: half as many directions, each tried both ways. 24 in SVA, 60 in AstFocus."""
    sigma: float = Field(0.25, gt=0, le=1)
    """Length of a trial along a direction, as a share of epsilon. SVA's 0.001 of the whole range is lost in uint8 pixels."""
    step: float = Field(0.2, gt=0, le=1)
    """Length of a step, as a share of epsilon: 0.2 in SVA."""
    at_once: int = Field(1, ge=1)
    """Clips of a batch, where several questions are known beforehand. More go faster, and a batch counts whole, also where one
    in it fools."""
    patience: int = Field(5, ge=1)
    """Steps without a new lowest margin after which steps are halved, down to one grey level."""

    def _search(self, ask: Ask, target: Target) -> Search[np.ndarray]:
        blocks, rows, columns = target.grid.shape
        return Search(ask, target.label, target.config.max_queries, np.zeros((target.grid.frames, rows, columns, 3)),
                      lambda field: painted(target.clip, field, target.grid.cell), self.graded)

    def _least_queries(self, grid: CellGrid) -> int:
        return 1 + self.queries_per_step

    @property
    def queries_per_step(self) -> int:
        """Of a gradient, and of the look at where the step led."""
        return self.samples + 1


class NesWalk:
    """A field of changes on its way down from the clean clip: grey levels for every frame, cell and colour, (T, R, C, 3)."""

    def __init__(self, search: Search[np.ndarray], control: NesControl, target: Target, margin: float, rng: np.random.Generator
                 ) -> None:
        self._search, self._control, self._rng, self._block = search, control, rng, target.grid.block
        self._epsilon = control.levels(target)
        self._length = max(control.step * self._epsilon, 1.0)
        self.field = np.zeros((target.grid.frames, *target.grid.shape[1:], 3))
        self.margin = self._lowest = margin
        self._stalled = 0

    def step(self, free: np.ndarray) -> float:
        """Move where `free`, bool (T, R, C), and return by how much the margin fell. Frames of a block move alike.

        The last step of a budget makes do with fewer directions.

        Raises:
            Fooled, BudgetSpent, LabelsAlone: as `Search.ask` does.
        """
        pairs = min(self._control.samples, max(self._search.left - 1, 2)) // 2
        blocks = len(free) // self._block
        directions = self._rng.standard_normal((pairs, blocks, *self.field.shape[1:]), np.float32)
        directions = directions.repeat(self._block, axis=1) * free[..., None]
        margins = self._search.ask(self._trials(directions), self._control.at_once)[1]
        slope = np.tensordot(margins[::2] - margins[1::2], directions, axes=1)
        self.field = self._bounded(self.field - self._length * np.sign(slope))
        before, self.margin = self.margin, float(self._search.ask([self.field])[1][0])
        self._pace()
        return before - self.margin

    def _trials(self, directions: np.ndarray) -> Iterator[np.ndarray]:
        for direction in self._control.sigma * self._epsilon * directions:
            yield self._bounded(self.field + direction)
            yield self._bounded(self.field - direction)

    def _bounded(self, field: np.ndarray) -> np.ndarray:
        return field.clip(-self._epsilon, self._epsilon)

    def _pace(self) -> None:
        self._stalled = 0 if self.margin < self._lowest else self._stalled + 1
        self._lowest = min(self._lowest, self.margin)
        if self._stalled == self._control.patience:
            self._length, self._stalled = max(self._length / 2, 1.0), 0


def painted(clip: np.ndarray, field: np.ndarray, cell: int) -> np.ndarray:
    """The clip with a field (T, R, C, 3) of grey levels, rounded, added to its cells; uint8 (T, H, W, 3)."""
    rows = field.shape[1]
    change = np.rint(field).astype(np.int16).repeat(cell, axis=2).reshape(len(clip), rows, 1, -1)
    return (change + clip.reshape(len(clip), rows, cell, -1)).clip(0, 255).astype(np.uint8).reshape(clip.shape)
