"""Trained attackers attack by the same call as controls, and distort a clip as they do."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from spot_victim import BLOCK, CELL, Spot, noise_clip

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.random_cells import RandomCells
from squall.algorithms.video_attack.episode import Episode, play
from squall.algorithms.video_attack.learned import Learned
from squall.algorithms.video_attack.policy import Actor, AttackerPolicy, agent_shapes
from squall.platform.errors import DataError
from squall.platform.seeds import derive_seed

CLIP = noise_clip()
CONFIG = AttackConfig(block=BLOCK, cell=CELL, max_queries=100)


@pytest.fixture(scope="module")
def policy() -> AttackerPolicy:
    torch.manual_seed(3)
    return AttackerPolicy({agent: Actor(shape, 8) for agent, shape in agent_shapes(Episode(CLIP, 0, CONFIG, 0)).items()})


def test_it_plays_an_episode_by_its_seeds(policy: AttackerPolicy) -> None:
    run = partial(Learned(policy).run, Spot(CLIP), CLIP, 0, CONFIG)
    first, again, other = run(1, 7), run(1, 7), run(2, 7)
    played = play(Episode(CLIP, 0, CONFIG, 7), Spot(CLIP), policy.chooser(derive_seed(1, "policy")))
    assert first.trace == again.trace == played.trace and np.array_equal(first.adversarial, played.adversarial)
    assert first.trace != other.trace and first.fooled and other.fooled
    assert np.array_equal(run(5).adversarial, run(5, 5).adversarial) and run(5).trace == run(5, 5).trace
    greedy = partial(Learned(policy, greedy=True).run, Spot(CLIP), CLIP, 0, CONFIG)
    assert greedy(1, 7).trace == greedy(2, 7).trace


def test_attackers_and_controls_with_one_seed_of_the_pixels_end_with_the_same_clip(policy: AttackerPolicy) -> None:
    ends = [attack.run(Spot(CLIP), CLIP, 0, CONFIG, seed, 7) for attack in (Learned(policy), RandomCells()) for seed in (1, 2)]
    assert all(end.fooled for end in ends) and len({end.queries for end in ends}) > 2
    smallest = [end for end in ends if end.occupancy.sum() == 2]  # the two cells of the spot
    assert len(smallest) == 4 and len({end.adversarial.tobytes() for end in smallest}) == 1
    other = Learned(policy).run(Spot(CLIP), CLIP, 0, CONFIG, 1, 8)
    assert other.adversarial.tobytes() != ends[0].adversarial.tobytes()


def test_attackers_of_other_choices_are_refused(policy: AttackerPolicy) -> None:
    with pytest.raises(DataError, match="the spatial attacker knows") as refused:
        Learned(policy).run(Spot(CLIP), CLIP, 0, CONFIG.model_copy(update={"cells_per_step": 2}), 1)
    assert refused.value.reason == "attacker_misfit"
