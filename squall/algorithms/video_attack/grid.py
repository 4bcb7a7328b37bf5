"""The grid that cuts a clip into cells: some frames deep, and square in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from squall.platform.errors import ConfigError


@dataclass(frozen=True)
class CellGrid:
    """Cells (block of frames, row, column) of clips (T, H, W, ...) of one size."""

    frames: int
    height: int
    width: int
    block: int
    """Frames that a cell spans."""
    cell: int
    """Pixels of its side."""

    def __post_init__(self) -> None:
        """Raises ConfigError where the clip is shorter than a block, smaller than a cell, or not divided by them."""
        if min(self.block, self.cell, self.frames, self.height, self.width) < 1:
            raise ConfigError(f"attack grid {self}: expected whole numbers of 1 or more")
        if self.frames < self.block:
            raise ConfigError(f"block = {self.block} frames, and the clip has {self.frames}; choose block = {self.frames} or"
                              " fewer, or longer clips")
        for key, size, sides in (("block", self.block, (self.frames,)), ("cell", self.cell, (self.height, self.width))):
            if any(side % size for side in sides):
                allowed = ", ".join(str(n) for n in range(1, min(sides) + 1) if not any(side % n for side in sides))
                clip = f"{self.frames} frames of {self.width}x{self.height}"
                raise ConfigError(f"{key} = {size} does not divide a clip of {clip}; allowed: {allowed}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks, rows, columns."""
        return self.frames // self.block, self.height // self.cell, self.width // self.cell

    @property
    def places(self) -> int:
        """Cells of a frame: rows x columns. Place p is in row p // columns and column p % columns."""
        return self.shape[1] * self.shape[2]

    @property
    def count(self) -> int:
        """All cells."""
        return self.shape[0] * self.places

    @property
    def sweep(self) -> int:
        """Queries that see the clean clip, every place (through all frames) and every block (all over the picture) once."""
        return 1 + self.places + self.shape[0]

    def mask(self, occupancy: np.ndarray) -> np.ndarray:
        """Spread (blocks, rows, columns) over the pixels: (T, H, W) of the same type, levels or booleans.

        Raises:
            ValueError: another shape.
        """
        if occupancy.shape != self.shape:
            raise ValueError(f"occupancy of shape {occupancy.shape}; the grid has {self.shape}")
        return occupancy.repeat(self.block, 0).repeat(self.cell, 1).repeat(self.cell, 2)

    def split(self, values: np.ndarray) -> np.ndarray:
        """A view (blocks, rows, columns, block, cell, cell, ...) of contiguous values (T, H, W, ...)."""
        blocks, rows, columns = self.shape
        inside = values.reshape(blocks, self.block, rows, self.cell, columns, self.cell, *values.shape[3:])
        return np.moveaxis(inside, (2, 4), (1, 2))
