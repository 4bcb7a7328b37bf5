"""What two agents can do: the spatial one chooses places, the temporal one a run of blocks; cells change where both meet.

The spatial action is (place to add, ..., place to remove or none), the temporal one (first block, length - 1). Every part is
one categorical choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.grid import CellGrid

AGENTS = ("spatial", "temporal")
Action: TypeAlias = Sequence[int] | np.ndarray
Masks: TypeAlias = Mapping[str, tuple[np.ndarray, ...]]
"""For each agent a boolean array for each part of its action; True is allowed, and something always is."""


def action_sizes(grid: CellGrid, config: AttackConfig) -> dict[str, tuple[int, ...]]:
    """Number of choices of every part of each agent's action; the last choice of the removal is none."""
    blocks = grid.shape[0]
    return {"spatial": (grid.places,) * config.cells_per_step + (grid.places + 1,),
            "temporal": (blocks, min(config.max_length_blocks or blocks, blocks))}


def action_masks(occupancy: np.ndarray, config: AttackConfig) -> Masks:
    """What has an effect now: places that are not at the highest level in all blocks, and places to remove that are on.

    When there is nothing to add any place may be named, and one has to be removed.
    """
    flat = occupancy.reshape(len(occupancy), -1)
    room = (flat < config.levels).any(0)
    removable = (flat > 0).any(0) & config.removal
    none = room.any() or not config.removal
    blocks = len(flat)
    return {"spatial": (room if room.any() else ~room,) * config.cells_per_step + (np.append(removable, none),),
            "temporal": (np.ones(blocks, bool), np.ones(min(config.max_length_blocks or blocks, blocks), bool))}


def moved(occupancy: np.ndarray, spatial: Action, temporal: Action, config: AttackConfig, grid: CellGrid) -> np.ndarray:
    """The occupancy after both agents' actions, a new array.

    The chosen places go one level up in the chosen blocks, and the removed one becomes clean there. Runs end with the clip. So
    that no query is spent on nothing, a place without effect in the chosen blocks changes in all others, and a place that is
    both added and removed is added if it can be.

    Raises:
        ValueError: an action of another length or outside its range.
    """
    sizes = action_sizes(grid, config)
    *added, removed = _checked("spatial", spatial, sizes["spatial"])
    first, longer = _checked("temporal", temporal, sizes["temporal"])
    after = occupancy.copy()
    flat = after.reshape(len(after), -1)
    run = slice(first, first + longer + 1)
    with_room = [place for place in sorted(set(added)) if (flat[:, place] < config.levels).any()]
    if removed < grid.places and removed not in with_room and config.removal:
        where = run if flat[run, removed].any() else slice(None)
        flat[where, removed] = 0
    for place in with_room:
        where = run if (flat[run, place] < config.levels).any() else slice(None)
        flat[where, place] = np.minimum(flat[where, place] + 1, config.levels)
    return after


def _checked(agent: str, action: Action, sizes: tuple[int, ...]) -> list[int]:
    values = np.atleast_1d(np.asarray(action))
    if values.shape != (len(sizes),) or values.dtype.kind not in "iu" or ((values < 0) | (values >= sizes)).any():
        raise ValueError(f"{agent} action {action!r}: expected {len(sizes)} whole numbers below {sizes}")
    return values.tolist()
