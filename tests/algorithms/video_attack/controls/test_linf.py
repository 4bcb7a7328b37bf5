"""Epsilon in grey levels, fields painted on cells, and steps of NES."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import PlannedVictim

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.linf import NesWalk, painted
from squall.algorithms.video_attack.controls.nes import Nes
from squall.algorithms.video_attack.palette import Palette

CONFIG = AttackConfig(cell=4, max_queries=300, distortion="brightness", severity=0.25)
SHAPE = (8, 4, 4, 3)


def walking(clip: np.ndarray, control: Nes, victim: PlannedVictim, limit: int = 300) -> NesWalk:
    config = CONFIG.model_copy(update={"max_queries": limit})
    target = Target(Palette(clip, config, 0), 0, config)
    search = control._search(victim, target)
    margin = float(search.ask([search.best])[1][0])
    return NesWalk(search, control, target, margin, np.random.default_rng(0))


def test_epsilon_is_that_of_the_distortion_or_its_own_rounded_down(clip: np.ndarray) -> None:
    target = Target(Palette(clip, CONFIG, 0), 0, CONFIG)
    assert Nes().levels(target) == 40
    assert Nes(epsilon=0.05).levels(target) == 12 and Nes(epsilon=8 / 255).levels(target) == 8
    dark = Target(Palette(np.zeros_like(clip), AttackConfig(cell=4, distortion="dead_pixel"), 0), 0, CONFIG)
    assert Nes().levels(dark) == 1


def test_a_field_is_painted_on_its_cells_and_stays_in_range() -> None:
    field = np.zeros((2, 2, 2, 3))
    field[1, 0, 1, 2], field[0, 1, 0, 0] = -30.4, 9.6
    clip = np.full((2, 4, 4, 3), 20, np.uint8)
    clip[:, 3, 0] = 250
    change = painted(clip, field, 2).astype(int) - clip
    assert (change[1, :2, 2:, 2] == -20).all() and (change[0, 2, :2, 0] == 10).all() and change[0, 3, 0, 0] == 5
    assert np.count_nonzero(change) == 8


def test_a_step_asks_both_ways_and_moves_by_the_sign_of_the_slope(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 5 + change[:2, :4, :4, 0].mean() / 50)
    walk = walking(clip, Nes(samples=2, sigma=0.5, step=0.25), victim)
    fall = walk.step(np.ones(SHAPE[:3], bool))
    clean, one, other, after = (asked.astype(int) - clip for asked in victim.asked)
    assert not clean.any() and np.array_equal(one, -other) and np.abs(one).max() <= 40
    assert np.array_equal(np.unique(np.abs(walk.field)), [10.0])
    assert (walk.field[:2, 0, 0, 0] == -10).all() and np.array_equal(after, painted(clip, walk.field, 4).astype(int) - clip)
    assert fall == pytest.approx(10 / 50, rel=1e-5) and walk.margin == pytest.approx(4.8, rel=1e-5)


def test_the_slope_is_the_gradient_where_there_are_many_directions(clip: np.ndarray) -> None:
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (4, 4, 4, 3))
    pixels = weights.repeat(2, 0).repeat(4, 1).repeat(4, 2)
    victim = PlannedVictim(clip, lambda change: 5 + (change * pixels).mean() / 40)
    walk = walking(clip, Nes(samples=4000, step=0.25), victim, limit=5000)
    walk.step(np.ones(SHAPE[:3], bool))
    assert (np.sign(walk.field) == -weights.repeat(2, 0)).mean() > 0.97


def test_only_what_is_free_moves_and_frames_of_a_block_move_alike(clip: np.ndarray) -> None:
    walk = walking(clip, Nes(samples=8), PlannedVictim(clip, lambda change: 5 + change.mean() / 50))
    free = np.zeros(SHAPE[:3], bool)
    free[2:5, 1, 1:3] = True
    walk.step(free)
    assert np.array_equal(walk.field.any(-1), free) and np.array_equal(walk.field[2], walk.field[3])
    assert not np.array_equal(walk.field[3], walk.field[4])


def test_the_last_step_of_a_budget_makes_do_with_fewer_directions(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 5 + change.mean() / 50)
    walk = walking(clip, Nes(), victim, limit=32)
    walk.step(np.ones(SHAPE[:3], bool))
    assert len(victim.asked) == 1 + 25
    walk.step(np.ones(SHAPE[:3], bool))
    assert len(victim.asked) == 1 + 25 + 5


def test_steps_shorten_when_the_margin_stalls_down_to_a_grey_level(clip: np.ndarray) -> None:
    heights = iter(range(10_000))
    walk = walking(clip, Nes(samples=2, step=0.2, patience=2), PlannedVictim(clip, lambda change: 5 + next(heights) / 1e4))
    lengths, before = [], walk.field
    for _ in range(10):
        walk.step(np.ones(SHAPE[:3], bool))
        lengths.append(float(np.abs(walk.field - before).max()))
        before = walk.field
    assert lengths == [8, 8, 4, 4, 2, 2, 1, 1, 1, 1]
