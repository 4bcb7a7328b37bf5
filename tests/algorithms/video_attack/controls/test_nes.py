"""NES on the whole grid."""

from __future__ import annotations

import numpy as np
from planned_victims import PlannedVictim

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.nes import Nes
from squall.algorithms.video_attack.controls.square_video import SquareVideo


def smooth_victim(clip: np.ndarray) -> PlannedVictim:
    """Gives way to a change that has the right sign in each cell and colour, whatever its place in the block."""
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (4, 4, 4, 3)).repeat(2, 0).repeat(4, 1).repeat(4, 2)
    return PlannedVictim(clip, lambda change: 3 + 0.9 * (change * weights).mean())


def test_it_goes_downhill_where_one_try_is_not_enough(clip: np.ndarray) -> None:
    config = AttackConfig(cell=4, max_queries=400)
    victim = smooth_victim(clip)
    outcome = Nes(epsilon=0.05).run(victim, clip, 0, config, seed=0)
    assert outcome.fooled and 50 < outcome.queries == len(victim.asked) < 400
    checks = [p for number, p in outcome.trace if number % 25 == 1]
    assert checks == sorted(checks, reverse=True)


def test_on_a_smooth_victim_slopes_are_worth_more_than_tries(clip: np.ndarray) -> None:
    config = AttackConfig(cell=4, max_queries=400)
    nes, square = ([control.run(smooth_victim(clip), clip, 0, config, seed) for seed in range(4)]
                   for control in (Nes(epsilon=0.05), SquareVideo(epsilon=0.05)))
    assert all(outcome.fooled for outcome in nes)
    assert np.mean([outcome.queries for outcome in nes]) < np.mean([outcome.queries for outcome in square])
