"""Blind plays: they go by what attackers see, to the cell, and a larger share only adds."""

from __future__ import annotations

import numpy as np
import pytest
from blind_attackers import attack_of, attackers, clip_with_a_patch

from squall.algorithms.video_attack.blind import TrainedOn, play_blind
from squall.algorithms.video_attack.policy import AttackerPolicy
from squall.platform.errors import ConfigError, DataError

SHARES = (0.0, 0.001, 0.1, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(("keys", "sums"), [
    ({}, [0, 1, 7, 16, 32, 64]), ({"removal": False, "probes": True}, [0, 1, 7, 16, 32, 64]),
    ({"levels": 3, "cells_per_step": 2}, [0, 1, 20, 48, 96, 192])])
def test_the_number_of_cells_is_exact_and_more_of_them_are_the_same_and_others(keys: dict, sums: list[int]) -> None:
    config, clip = attack_of(max_queries=400, **keys), clip_with_a_patch()
    policy = attackers(config, eagerness=1.0)
    plays = [play_blind(clip, config, policy, 3, share) for share in SHARES]
    assert [int(play.sum()) for play in plays] == sums
    assert all((more >= less).all() for less, more in zip(plays, plays[1:], strict=False))
    assert (plays[-1] == config.levels).all() and plays[0].dtype == np.int8


def test_what_stands_out_is_taken_first_and_the_seed_draws_when() -> None:
    config, clip = attack_of(), clip_with_a_patch()
    policy = attackers(config)
    first = [play_blind(clip, config, policy, seed, 1 / 64) for seed in range(8)]
    assert all(play[:, 1, 2].sum() == play.sum() == 1 for play in first)
    assert len({play.tobytes() for play in first}) > 1
    assert np.array_equal(play_blind(clip, config, policy, 5, 0.3), play_blind(clip, config, policy, 5, 0.3))
    evenly = play_blind(clip, config, AttackerPolicy({}), 0, 1 / 64)
    assert evenly[:, 1, 2].sum() == 0  # companions see nothing


def test_no_more_moves_are_made_than_the_attack_may_make() -> None:
    clip, unlimited = clip_with_a_patch(), attack_of(max_length_blocks=1)
    policy = attackers(unlimited)
    assert play_blind(clip, unlimited, policy, 0, 1.0).sum() == 64
    assert play_blind(clip, attack_of(max_length_blocks=1, max_steps=5), policy, 0, 1.0).sum() <= 15
    assert play_blind(clip, attack_of(max_length_blocks=1, max_queries=22), policy, 0, 0.05).sum() == 4


def test_attackers_of_another_configuration_are_refused() -> None:
    with pytest.raises(DataError, match="the spatial attacker knows 13 channels") as refused:
        play_blind(clip_with_a_patch(), attack_of(cells_per_step=2), attackers(attack_of()), 0, 0.5)
    assert refused.value.reason == "attacker_misfit"


def test_what_attackers_were_trained_on_is_read_beside_other_facts() -> None:
    trained = TrainedOn(attack=attack_of(severity=0.5), frames=8, height=32, width=48)
    about = {**trained.model_dump(mode="json"), "seed": 3}
    assert TrainedOn.read(about, "here") == trained and trained.shape == (8, 32, 48)
    for wrong, says in (({"frames": 7}, "here: block = 2 does not divide"), ({"height": None}, "here: 'height' = None"),
                        ({"attack": {"distortion": "fogg"}}, "here: 'attack.distortion' = .*Did you mean 'fog'")):
        with pytest.raises(ConfigError, match=says):
            TrainedOn.read(about | wrong, "here")
    with pytest.raises(ConfigError, match="here: missing key 'attack'"):
        TrainedOn.read({"seed": 3}, "here")
