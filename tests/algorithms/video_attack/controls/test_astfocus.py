"""AstFocus-like: two agents relearned for a clip narrow down where NES moves."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import PlannedVictim

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.astfocus import Agent, AstFocus, Patches
from squall.algorithms.video_attack.controls.policies import FramePolicy, PlacePolicy
from squall.algorithms.video_attack.grid import CellGrid

GRID = CellGrid(8, 16, 16, block=2, cell=4)


def test_patches_fit_the_grid_at_every_place() -> None:
    patches = Patches(GRID, 0.58)
    assert patches.count == 4
    masks = patches.masks(np.array([0, 1, 2, 3]))
    assert masks.shape == (8, 4, 4) and masks.sum((1, 2)).tolist() == [9] * 8
    assert masks[0, :3, :3].all() and masks[2, :3, 1:].all() and masks[4, 1:, :3].all() and masks[7, 1:, 1:].all()
    assert Patches(GRID, 1.0).count == 1 and Patches(GRID, 0.25).count == 16


def test_motion_is_most_where_things_move() -> None:
    clip = np.zeros((8, 16, 16, 3), np.uint8)
    clip[3, 0:4, 12:16] = 200
    motion = Patches(GRID, 0.5).motion(clip)
    assert motion.shape == (4, 9) and motion[1, 2] == 1.0 and motion[0].sum() == 0.0 == motion[1, 6]
    assert np.count_nonzero(motion[1]) == 1


@pytest.mark.parametrize("policy", [FramePolicy(np.zeros(8), 0.1), PlacePolicy(np.zeros((4, 9)), 0.1)])
def test_an_agent_learns_what_its_rewards_say(policy: FramePolicy | PlacePolicy) -> None:
    agent, rng = Agent(policy, AstFocus()), np.random.default_rng(0)
    for _ in range(120):
        choice = agent.policy.sample(rng)
        agent.learn(choice, float(choice[1] == 1))
    probabilities = agent.policy.probabilities()
    assert (probabilities[1] if probabilities.ndim == 1 else probabilities[1, 1]) > 0.8


def test_an_update_stops_where_a_choice_has_become_likelier_than_ppo_allows() -> None:
    agents = [Agent(PlacePolicy(np.zeros((1, 4)), 0.02), AstFocus(epochs=epochs, clip_ratio=0.2)) for epochs in (1, 100)]
    for agent in agents:
        agent.learn(np.array([2]), 1.0)
    once, often = (agent.policy.probabilities()[0, 2] / 0.25 for agent in agents)
    assert 1.0 < once < 1.2 < often < 1.25


def test_bad_choices_become_less_likely_within_the_same_bound() -> None:
    agent = Agent(PlacePolicy(np.zeros((1, 4)), 0.02), AstFocus(epochs=100, clip_ratio=0.2))
    agent.learn(np.array([2]), -1.0)
    assert 0.75 < agent.policy.probabilities()[0, 2] / 0.25 < 0.8


def test_every_step_moves_the_patch_in_the_chosen_frames_alone(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 9 + change.mean() / 100)
    AstFocus(samples=4).run(victim, clip, 0, AttackConfig(cell=4, max_queries=41), seed=0)
    assert len(victim.asked) == 41
    for before, after in zip(victim.asked[0:-1:5], victim.asked[5::5], strict=True):
        moved = GRID.split((before != after).any(-1)).any((4, 5)).transpose(0, 3, 1, 2).reshape(8, 4, 4)
        frames = moved[moved.any((1, 2))]
        assert 1 <= len(frames) <= 8 and all(frame.sum() == 9 for frame in frames)
    first = (victim.asked[0] != victim.asked[5]).any((1, 2, 3))
    assert 0 < first.sum() < 8


def test_it_fools_a_victim_with_a_weak_patch(clip: np.ndarray) -> None:
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (2, 2, 3)).repeat(4, 0).repeat(4, 1)
    victim = PlannedVictim(clip, lambda change: 4 + 0.9 * (change[:, :8, :8] * weights).mean())
    outcome = AstFocus(epsilon=0.05).run(victim, clip, 0, AttackConfig(cell=4, max_queries=600), seed=0)
    assert outcome.fooled and outcome.queries == len(victim.asked)
