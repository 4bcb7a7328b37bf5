"""What an attack may do to a clip, what it may cost, and what its agents are rewarded for."""

from __future__ import annotations

from pydantic import Field, field_validator

from squall.algorithms.video_attack.distortions import find_distortion
from squall.algorithms.video_attack.grid import CellGrid
from squall.platform.config import Config
from squall.platform.errors import ConfigError


class AttackConfig(Config):
    """Grid, distortion, budget and reward of attacks on clips."""

    block: int = Field(2, ge=1)
    """Frames that a cell of the grid spans; it must divide the clip's."""
    cell: int = Field(28, ge=1)
    """Pixels of a cell's side; it must divide the clip's height and width."""
    distortion: str = "gaussian_noise"
    """What a cell that is switched on looks like: gaussian_noise, blur, dead_pixel, brightness, jpeg, a corruption kind without
    severity and seed (fog, heavy_rain wind=2, night + snow), or module:function."""
    severity: float = Field(1.0, gt=0, le=1)
    """Of the distortion at the highest level, in (0, 1]."""
    levels: int = Field(1, ge=1, le=8)
    """Steps from clean to `severity`; adding distortion to a cell takes it one step up, removing takes it all off."""
    max_queries: int = Field(300, ge=1)
    """Clips that an attack may ask the victim about, the clean clip, sensitivity probes and removal included."""
    max_steps: int | None = Field(None, ge=1)
    """Steps after which an episode of the agents ends, of one query each; by default the budget alone ends it."""
    cells_per_step: int = Field(1, ge=1)
    """Places that the spatial agent adds distortion to in a step."""
    max_length_blocks: int | None = Field(None, ge=1)
    """Longest run of blocks that the temporal agent may choose; by default the whole clip. A number lets policies go from
    clips of one length to those of another."""
    removal: bool = True
    """Cells may be taken back: by the spatial agent's second choice, and by a sweep after the flip."""
    probes: bool = False
    """Begin with the sensitivity of every place and every block, for one query each."""
    lam1: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Reward for each unit of the label's log probability that is lost."""
    lam2: float = Field(2.0, ge=0, allow_inf_nan=False)
    """Cost of the root mean square of the change, pixels in [0, 1]: what it grows by in a step."""
    lam3: float = Field(0.02, ge=0, allow_inf_nan=False)
    """Cost in every step of the change's flicker, which is 0 for a change that stands still."""
    lam4: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Cost of the whole of `max_queries`; a query costs its share."""
    bonus: float = Field(5.0, ge=0, allow_inf_nan=False)
    """Reward for the flip."""

    @field_validator("distortion")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            find_distortion(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def grid(self, frames: int, height: int, width: int) -> CellGrid:
        """The grid over clips (frames, height, width, 3).

        Raises:
            ConfigError: it does not divide them, or the budget does not reach for one sweep over it.
        """
        grid = CellGrid(frames, height, width, self.block, self.cell)
        if self.max_queries < grid.sweep:
            blocks, rows, columns = grid.shape
            raise ConfigError(f"max_queries = {self.max_queries} is below one sweep over the grid: 1 for the clean clip +"
                              f" {rows} x {columns} places + {blocks} blocks = {grid.sweep}; raise it, or choose larger cells")
        return grid
