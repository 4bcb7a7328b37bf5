"""RLlib's runner with attacks that ask together: what the victim is asked, who attacks which clip, and how attacks end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from spot_victim import PLACE, Spot, noise_clip

from squall.actors.attacker_config import AttackerTrainingConfig, env_maker
from squall.actors.attacker_env import AttackerEnv
from squall.actors.attacker_runner import AttacksTogether
from squall.actors.victim_client import VictimUnavailable
from squall.actors.video_attack_env import INFRA_ERROR, VideoAttackEnv
from squall.algorithms.video_attack.config import AttackConfig

HIT = {"spatial": np.array([PLACE, 16]), "temporal": np.array([0, 3])}
MISS = {"spatial": np.array([0, 16]), "temporal": np.array([0, 0])}
ATTACK = AttackConfig(block=2, cell=8, max_queries=30)


class Counting:
    """The victim of one clip, which notes how many clips it is asked about, and is away on demand."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.away = False

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.requests.append(len(clips))
        if self.away:
            raise VictimUnavailable("gone")
        return Spot(noise_clip())(clips)


def together(victim: Any, count: int = 3) -> AttacksTogether:
    return AttacksTogether([lambda: AttackerEnv(VideoAttackEnv([(noise_clip(), 0)], victim, ATTACK), True)] * count)


def test_a_step_of_all_attacks_is_one_request_and_those_that_ended_begin_anew() -> None:
    victim = Counting()
    env = together(victim)
    observations, infos = env.reset()
    assert len(observations) == len(infos) == 3
    _, rewards, terminated, truncated, _ = env.step([MISS, HIT, MISS])
    assert [one["__all__"] for one in terminated] == [False, True, False]
    assert rewards[1]["spatial"] > 5 > rewards[0]["spatial"]
    _, rewards, terminated, truncated, infos = env.step([MISS, {}, MISS])
    assert [info["spatial"]["queries"] for info in infos] == [3, 1, 3]
    assert rewards[1] == {"spatial": 0, "temporal": 0}
    assert not any(one["__all__"] for one in (*terminated, *truncated))
    assert victim.requests == [3, 3, 3]


def test_attacks_are_what_they_are_alone() -> None:
    env, alone = together(Counting()), together(Counting(), 1)
    steps = [{**MISS, "spatial": np.array([place, 16])} for place in (3, 0, 9)]
    for one in (env, alone):
        one.reset()
    for step in steps:
        (seen, *_), (own, *_) = (one.step([step] * one.num_envs)[0] for one in (env, alone))
        assert np.array_equal(seen["spatial"]["own"], own["spatial"]["own"])


def test_a_victim_that_cannot_be_reached_truncates_all_attacks() -> None:
    victim = Counting()
    env = together(victim)
    env.reset()
    victim.away = True
    _, rewards, terminated, truncated, infos = env.step([MISS] * 3)
    assert all(np.isnan(reward["temporal"]) and cut["__all__"] and not ended["__all__"]
               for reward, cut, ended in zip(rewards, truncated, terminated, strict=True))
    assert all(info["spatial"][INFRA_ERROR] == "VictimUnavailable: gone" for info in infos)
    with pytest.raises(VictimUnavailable):
        env.step([{}] * 3)


@pytest.mark.cluster
def test_attacks_of_a_runner_are_on_clips_in_orders_of_their_own_and_its_victim_stays_in_the_process(
        ray_cluster: object, tmp_path: Any) -> None:
    from squall.actors.attacker_algorithm import AttackerAlgorithm

    class Stays(Counting):
        def __reduce__(self) -> Any:
            raise TypeError("not to be pickled")

    victim, clips = Stays(), [(noise_clip(), 0) for _ in range(40)]
    config = AttackerTrainingConfig(runners=0, clips_at_once=6, steps_per_iteration=12, minibatch_steps=12, epochs=1)
    algorithm = AttackerAlgorithm(config, env_maker(ATTACK, config), clips, victim, tmp_path)
    try:
        assert algorithm.iterate(1, 0).steps >= 12
        attacked = [env._env.episode.palette.clip for env in algorithm._ppo.env_runner.env.envs]
    finally:
        algorithm.stop()
    assert victim.requests[0] == 1 and set(victim.requests[1:]) == {6}
    assert len({id(clip) for clip in attacked}) > 3
