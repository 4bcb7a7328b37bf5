"""The PettingZoo environment: the standard's own tests, whom it attacks, how episodes end, and what a failing victim means."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from spot_victim import PLACE, Spot, noise_clip

from squall.actors.victim_client import VictimUnavailable
from squall.actors.video_attack_env import INFRA_ERROR, VideoAttackEnv
from squall.algorithms.video_attack.config import AttackConfig
from squall.platform.errors import ConfigError, DataError

CLIPS = [(noise_clip(0), 0), (noise_clip(0), 1), (noise_clip(0), 0)]
"""The victim classifies the second wrongly."""
HIT = {"spatial": np.array([PLACE, 16]), "temporal": np.array([0, 3])}
MISS = {"spatial": np.array([0, 16]), "temporal": np.array([0, 0])}


class Failing:
    """A victim whose machine fails after some answers."""

    def __init__(self, answers: int, error: Exception) -> None:
        self.left, self.error, self.victim = answers, error, Spot(noise_clip(0))

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.victim(clips)


def env_of(ask: Any = None, clips: Any = CLIPS, **keys: Any) -> VideoAttackEnv:
    own = {name: keys.pop(name) for name in ("seed", "agents", "companion") if name in keys}
    return VideoAttackEnv(clips, ask or Spot(noise_clip(0)), AttackConfig(**{"block": 2, "cell": 8, "max_queries": 40} | keys),
                          **own)


def test_it_passes_the_standards_own_tests() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(env_of(seed=3), num_cycles=100)
        parallel_api_test(env_of(seed=3, agents=["temporal"]), num_cycles=20)
        parallel_seed_test(lambda: env_of(seed=3))


def test_what_it_says_lies_in_its_spaces() -> None:
    env = env_of()
    observations, _ = env.reset()
    for _ in range(5):
        assert all(env.observation_space(agent).contains(seen) for agent, seen in observations.items())
        observations, *_ = env.step(MISS)
    assert env.possible_agents == ["spatial", "temporal"]
    assert env.action_space("spatial").nvec.tolist() == [16, 17]
    assert env.state().shape == (13 * 16 + 12 * 4,)


def test_the_flip_terminates_and_pays() -> None:
    env = env_of()
    env.reset()
    _, rewards, terminated, truncated, infos = env.step(HIT)
    assert rewards["spatial"] == rewards["temporal"] > 5
    assert terminated == {"spatial": True, "temporal": True} and truncated == {"spatial": False, "temporal": False}
    assert infos["temporal"] | {"p_label": 0} == {"queries": 2, "fooled": True, "p_label": 0}
    assert env.agents == []


def test_the_budget_terminates() -> None:
    env = env_of()
    env.reset()
    for number in range(2, 41):
        _, _, terminated, _, infos = env.step(MISS if number % 2 else {**MISS, "spatial": np.array([16 - 1, 16])})
        assert infos["spatial"]["queries"] == number
        assert terminated["spatial"] == (number == 40)


def test_clips_that_the_victim_gets_wrong_are_not_attacked_and_each_other_once_a_pass() -> None:
    asked: list[int] = []
    env = env_of()
    for _ in range(8):
        env.reset()
        asked.append(next(number for number, (clip, _) in enumerate(CLIPS) if clip is env.episode.palette.clip))
    assert set(asked) == {0, 2}
    assert [sorted(asked[start:start + 2]) for start in (0, 2, 4, 6)] == [[0, 2]] * 4


def test_a_victim_that_gets_all_wrong_is_an_error() -> None:
    with pytest.raises(DataError, match="the victim classifies 0 of 2 clips correctly, and none of them is left to attack"):
        env_of(clips=[(noise_clip(0), 1), (noise_clip(1), 1)], ask=Spot(noise_clip(0), 1000.0)).reset()


@pytest.mark.parametrize("error", [VictimUnavailable("victim x: no answer"), ConnectionError("reset by peer")])
def test_a_victim_that_cannot_be_reached_truncates_and_is_no_reward(error: Exception) -> None:
    env = env_of(Failing(2, error), clips=CLIPS[:1])
    env.reset()
    env.step(MISS)
    _, rewards, terminated, truncated, infos = env.step(MISS)
    assert all(math.isnan(reward) for reward in rewards.values())
    assert not any(terminated.values()) and all(truncated.values()) and env.agents == []
    assert infos["spatial"][INFRA_ERROR] == f"{type(error).__name__}: {error}"
    assert infos["spatial"]["queries"] == 2
    with pytest.raises(type(error)):
        env.reset()


def test_a_victim_that_answers_nonsense_is_an_error_and_no_failure_of_machines() -> None:
    env = env_of(lambda clips: np.full((len(clips), 2), np.nan))
    with pytest.raises(DataError, match="the victim returned values that are not finite for 1 clips"):
        env.reset()


def test_clips_of_two_sizes_and_grids_that_do_not_divide_are_refused() -> None:
    with pytest.raises(DataError, match="attackers learn on clips of one size, and these have 2"):
        env_of(clips=[*CLIPS, (noise_clip(0, 8, 40, 40), 0)])
    with pytest.raises(ConfigError, match="cell = 5 does not divide"):
        env_of(cell=5)
    with pytest.raises(ConfigError, match="max_queries = 20 is below one sweep"):
        env_of(max_queries=20)


def test_an_agent_alone_acts_with_a_companion() -> None:
    env = env_of(agents=["spatial"], companion="fixed")
    env.reset()
    *_, infos = env.step({"spatial": HIT["spatial"]})
    assert infos == {"spatial": infos["spatial"]} and infos["spatial"]["fooled"]
    assert env.episode.occupancy[:, 1, 2].tolist() == [1, 1, 1, 1]
