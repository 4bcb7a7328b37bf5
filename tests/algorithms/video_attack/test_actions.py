"""What actions do to the cells, what is masked, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.video_attack.actions import action_masks, action_sizes, moved
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.grid import CellGrid

GRID = CellGrid(8, 16, 24, block=2, cell=8)
NONE = GRID.places
EMPTY = np.zeros(GRID.shape, np.int8)


def on(occupancy: np.ndarray) -> list[tuple[int, int]]:
    """(place, block) of the cells that are on."""
    return [(int(place), int(block)) for place, block in np.argwhere(occupancy.reshape(len(occupancy), -1).T)]


def move(occupancy: np.ndarray, spatial: tuple[int, ...], temporal: tuple[int, int], **keys: object) -> np.ndarray:
    return moved(occupancy, spatial, temporal, AttackConfig(cell=8, **keys), GRID)


def test_a_place_is_added_through_the_chosen_run() -> None:
    assert on(move(EMPTY, (4, NONE), (1, 1))) == [(4, 1), (4, 2)]
    assert on(move(EMPTY, (4, NONE), (3, 3))) == [(4, 3)], "runs end with the clip"
    assert not EMPTY.any()


def test_a_place_is_removed_from_the_chosen_run() -> None:
    full = move(EMPTY, (4, NONE), (0, 3))
    assert on(move(full, (0, 4), (0, 1))) == [(0, 0), (0, 1), (4, 2), (4, 3)]
    assert on(move(full, (0, 4), (0, 1), removal=False)) == [(0, 0), (0, 1), (4, 0), (4, 1), (4, 2), (4, 3)]


def test_choices_without_effect_in_the_run_take_effect_in_the_other_blocks() -> None:
    half = move(EMPTY, (4, NONE), (0, 1))
    assert on(move(half, (4, NONE), (0, 0))) == [(4, 0), (4, 1), (4, 2), (4, 3)]
    assert on(move(half, (0, 4), (3, 0))) == [(0, 3)]


def test_levels_are_climbed_one_by_one_and_left_at_once() -> None:
    twice = move(move(EMPTY, (4, NONE), (0, 0), levels=3), (4, NONE), (0, 0), levels=3)
    assert twice.max() == 2
    assert on(move(twice, (1, 4), (0, 0), levels=3)) == [(1, 0)]


def test_what_is_added_and_removed_is_added_and_twins_count_once() -> None:
    assert on(move(EMPTY, (4, 4), (0, 0))) == [(4, 0)]
    assert move(move(EMPTY, (4, NONE), (0, 0), levels=3), (4, 4), (0, 0), levels=3).max() == 2
    assert move(EMPTY, (4, 4, NONE), (0, 0), cells_per_step=2, levels=2).max() == 1


def test_masks_leave_out_what_has_no_effect() -> None:
    config = AttackConfig(cell=8)
    assert action_sizes(GRID, config) == {"spatial": (6, 7), "temporal": (4, 4)}
    masks = action_masks(move(move(EMPTY, (4, NONE), (0, 3)), (2, NONE), (0, 0)), config)
    assert masks["spatial"][0].tolist() == [True, True, True, True, False, True]
    assert masks["spatial"][1].tolist() == [False, False, True, False, True, False, True]
    assert all(mask.all() for mask in masks["temporal"])
    full = action_masks(np.ones(GRID.shape, np.int8), config)["spatial"]
    assert on(1 - move(np.ones(GRID.shape, np.int8), (4, 4), (0, 0))) == [(4, 0)]
    assert full[0].all() and full[1].tolist() == [True] * 6 + [False]
    without = action_masks(np.ones(GRID.shape, np.int8), AttackConfig(cell=8, removal=False, max_length_blocks=2))
    assert without["spatial"][0].all(), "a policy must have something to choose"
    assert without["spatial"][1].tolist() == [False] * 6 + [True]
    assert without["temporal"][1].tolist() == [True, True]


@pytest.mark.parametrize(("spatial", "temporal", "message"), [
    ((6, NONE), (0, 0), r"spatial action \(6, 6\): expected 2 whole numbers below \(6, 7\)"),
    ((0, 7), (0, 0), "spatial action"),
    ((-1, NONE), (0, 0), "spatial action"),
    ((0,), (0, 0), "spatial action"),
    ((0, NONE), (4, 0), r"temporal action \(4, 0\): expected 2 whole numbers below \(4, 4\)"),
    ((0, NONE), (0.5, 0), "temporal action"),
])
def test_actions_out_of_range_are_refused(spatial: tuple, temporal: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        move(EMPTY, spatial, temporal)
