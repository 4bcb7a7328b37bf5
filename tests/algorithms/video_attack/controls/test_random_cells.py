"""Random cells: moves of the agents without their choice."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import PlannedVictim, weak_cells

from squall.algorithms.video_attack.asking import label_only
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.random_cells import RandomCells
from squall.algorithms.video_attack.grid import CellGrid


def touched(victim: PlannedVictim, clip: np.ndarray) -> np.ndarray:
    """Cells (n, blocks, rows, columns) that differ from the clean clip, of all that was asked."""
    grid = CellGrid(8, 16, 16, 2, 4)
    return np.stack([grid.split((asked != clip).any(-1)).any((3, 4, 5)) for asked in victim.asked])


def stands(clip: np.ndarray) -> PlannedVictim:
    return PlannedVictim(clip, lambda change: 1.0)


def test_single_cells_are_raised_one_by_one_until_all_are_and_then_anew(clip: np.ndarray) -> None:
    victim = stands(clip)
    RandomCells(moves="cells").run(victim, clip, 0, AttackConfig(cell=4, max_queries=70), seed=0)
    assert touched(victim, clip).sum((1, 2, 3)).tolist() == [*range(65), *range(1, 6)]


def test_tubes_run_through_blocks_at_places(clip: np.ndarray) -> None:
    victim = stands(clip)
    RandomCells().run(victim, clip, 0, AttackConfig(cell=4, max_queries=60, cells_per_step=2), seed=0)
    first = touched(victim, clip)[1]
    assert 1 <= first.any(0).sum() <= 2 and len({tuple(first[:, r, c]) for r, c in np.argwhere(first.any(0))}) == 1
    changes = [(left != right).any() for left, right in zip(victim.asked, victim.asked[1:], strict=False)]
    assert all(changes) and len(victim.asked) == 60


def test_the_longest_run_is_kept_to(clip: np.ndarray) -> None:
    runs = []
    for seed in range(12):
        victim = stands(clip)
        RandomCells().run(victim, clip, 0, AttackConfig(cell=4, max_queries=21, max_length_blocks=2), seed)
        runs.append(int(touched(victim, clip)[1].any((1, 2)).sum()))
    assert set(runs) == {1, 2}


def test_levels_rise_step_by_step(clip: np.ndarray) -> None:
    config = AttackConfig(cell=8, block=8, levels=3, max_queries=13, distortion="brightness")
    victim = stands(clip)
    RandomCells(moves="cells").run(victim, clip, 0, config, seed=0)
    total = [int((asked.astype(int) - clip).sum()) for asked in victim.asked]
    assert total == sorted(total) and len(set(total)) == 13
    assert np.array_equal(victim.asked[-1], np.minimum(clip.astype(int) + 160, 255))


@pytest.mark.parametrize("moves", ["tubes", "cells"])
def test_a_victim_of_labels_alone_is_enough(clip: np.ndarray, moves: str) -> None:
    victim = weak_cells(clip, [(1, 2, 3), (2, 0, 1)])
    outcome = RandomCells(moves=moves).run(label_only(victim), clip, 0, AttackConfig(cell=4, max_queries=300), seed=0)
    assert outcome.fooled and np.argwhere(outcome.occupancy).tolist() == [[1, 2, 3], [2, 0, 1]]
    assert set(p for _, p in outcome.trace) == {0.0, 1.0} and len(victim.asked) == outcome.total_queries
