"""Greedy search finds what a victim is sensitive to, for the price of its sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import weak_cells

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.greedy import Greedy, most_sensitive, probability_dilution
from squall.algorithms.video_attack.controls.random_cells import RandomCells

CONFIG = AttackConfig(cell=4, max_queries=300)
PAIR = [(1, 0, 2), (1, 3, 1)]


def test_probability_dilution_is_the_published_one() -> None:
    assert probability_dilution(np.array([0.9, 0.5, 0.1])) == pytest.approx([-21.854, -3.322, -1.0], abs=5e-4)
    assert np.isfinite(probability_dilution(np.array([0.0, 1.0]))).all()


def test_the_most_sensitive_come_first_and_margins_part_the_rest() -> None:
    assert most_sensitive(np.array([0.9, 0.2, 0.5]), np.zeros(3)).tolist() == [1, 2, 0]
    assert most_sensitive(np.ones(3), np.array([20.0, 30.0, 10.0])).tolist() == [2, 0, 1]


def test_two_weak_places_are_found_by_one_sweep_and_the_rest_is_taken_back(clip: np.ndarray) -> None:
    victim = weak_cells(clip, PAIR)
    outcome = Greedy().run(victim, clip, 0, CONFIG, seed=0)
    assert outcome.fooled and outcome.queries == 1 + 16 + 1
    assert sorted(map(tuple, np.argwhere(outcome.occupancy))) == PAIR
    assert len(victim.asked) == outcome.total_queries and outcome.removal_queries > 0


def test_one_weak_cell_falls_within_the_sweep(clip: np.ndarray) -> None:
    outcome = Greedy().run(weak_cells(clip, PAIR[:1]), clip, 0, CONFIG, seed=0)
    assert outcome.fooled and outcome.queries == 1 + 3 and outcome.occupancy.sum() == 1


def test_cells_cost_a_sweep_over_the_whole_grid(clip: np.ndarray) -> None:
    outcome = Greedy(moves="cells").run(weak_cells(clip, PAIR), clip, 0, CONFIG, seed=0)
    assert outcome.fooled and outcome.queries == 1 + 64 + 1 and outcome.removal_queries <= 2


def test_without_removal_all_that_was_raised_stays(clip: np.ndarray) -> None:
    config = CONFIG.model_copy(update={"removal": False})
    outcome = Greedy().run(weak_cells(clip, PAIR), clip, 0, config, seed=0)
    assert outcome.occupancy.sum() == 8 and outcome.removal_queries == 0


def test_removal_ends_with_the_budget(clip: np.ndarray) -> None:
    config = CONFIG.model_copy(update={"max_queries": 21})
    victim = weak_cells(clip, PAIR)
    outcome = Greedy().run(victim, clip, 0, config, seed=0)
    assert outcome.fooled and outcome.removal_queries == 3 and len(victim.asked) == 21


def test_it_needs_fewer_queries_than_random_cells(clip: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    pairs = [[(int(rng.integers(4)), *divmod(int(place), 4)) for place in rng.permutation(16)[:2]] for _ in range(20)]
    greedy, random = ([control.run(weak_cells(clip, pair), clip, 0, CONFIG, seed).queries for seed, pair in enumerate(pairs)]
                      for control in (Greedy(), RandomCells()))
    assert set(greedy) == {18} and np.mean(random) > 22


def test_levels_rise_one_by_one_and_it_gives_up_when_all_are_at_the_top(clip: np.ndarray) -> None:
    config = AttackConfig(cell=8, block=4, levels=2, max_queries=300, distortion="brightness")
    outcome = Greedy(raised_per_step=4, steps_per_sweep=None).run(weak_cells(clip, [(0, 9, 9)]), clip, 0, config, seed=0)
    assert not outcome.fooled and outcome.queries == 1 + 2 * (4 + 1)


def test_a_sweep_serves_as_many_steps_as_it_is_told(clip: np.ndarray) -> None:
    three = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    every, once = (Greedy(raised_per_step=1, steps_per_sweep=steps).run(weak_cells(clip, three), clip, 0, CONFIG, seed=0)
                   for steps in (1, None))
    assert every.fooled and once.fooled
    assert once.queries == 1 + 16 + 3
    assert every.queries == 1 + (16 + 1) + (15 + 1) + 9
    assert sorted(map(tuple, np.argwhere(every.occupancy))) == sorted(map(tuple, np.argwhere(once.occupancy))) == three


def test_batches_go_faster_and_count_whole(clip: np.ndarray) -> None:
    outcome = Greedy(at_once=8).run(weak_cells(clip, PAIR[:1]), clip, 0, CONFIG, seed=0)
    assert outcome.queries == 1 + 8 and outcome.trace[-1][0] == 9
