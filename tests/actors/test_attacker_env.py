"""RLlib's view of the environment: none of the defects of its own wrapper, and unanswered steps are not learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from spot_victim import PLACE, Spot, noise_clip

from squall.actors.attacker_env import MASK, OTHERS, OWN, AttackerEnv, EpisodeCounts
from squall.actors.victim_client import VictimUnavailable
from squall.actors.video_attack_env import VideoAttackEnv
from squall.algorithms.video_attack.config import AttackConfig

HIT = {"spatial": np.array([PLACE, 16]), "temporal": np.array([0, 3])}
MISS = {"spatial": np.array([0, 16]), "temporal": np.array([0, 0])}


def env_of(ask: Any = None, centralised: bool = True, **keys: Any) -> AttackerEnv:
    clip = noise_clip()
    config = AttackConfig(block=2, cell=8, max_queries=30)
    return AttackerEnv(VideoAttackEnv([(clip, 0)], ask or Spot(clip), config, **keys), centralised)


class FailsAfter:
    """The victim until it cannot be reached."""

    def __init__(self, answers: int) -> None:
        self.left, self.victim = answers, Spot(noise_clip())

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise VictimUnavailable("gone")
        return self.victim(clips)


def test_agents_are_ordered_and_spaces_are_by_agent() -> None:
    env = env_of()
    assert env.possible_agents == ["spatial", "temporal"]
    observations, _ = env.reset()
    assert all(env.get_observation_space(agent).contains(seen) for agent, seen in observations.items())
    assert [env.get_action_space(agent).nvec.tolist() for agent in env.possible_agents] == [[16, 17], [4, 4]]


def test_a_centralised_critic_is_given_what_the_others_see() -> None:
    observations, _ = env_of().reset()
    assert np.array_equal(observations["spatial"][OTHERS]["temporal"], observations["temporal"][OWN])
    assert set(env_of(centralised=False).reset()[0]["spatial"]) == {OWN, MASK}
    assert set(env_of(agents=["spatial"]).reset()[0]["spatial"]) == {OWN, MASK}


def test_masks_are_flat() -> None:
    env = env_of()
    env.reset()
    observations, *_ = env.step(MISS)
    assert observations["spatial"][MASK].dtype == np.float32
    assert np.flatnonzero(observations["spatial"][MASK][16:]).tolist() == [0, 16]


@pytest.mark.parametrize(("answers", "action", "ended", "cut"), [(9, MISS, False, False), (9, HIT, True, False),
                                                                 (1, MISS, False, True)])
def test_an_episode_ends_when_no_agent_is_left(answers: int, action: dict, ended: bool, cut: bool) -> None:
    env = env_of(FailsAfter(answers))
    env.reset()
    _, _, terminated, truncated, _ = env.step(action)
    assert (terminated["__all__"], truncated["__all__"]) == (ended, cut)
    assert env.agents == ([] if ended or cut else ["spatial", "temporal"])


def test_the_dicts_of_the_environment_inside_stay_as_they_are() -> None:
    env = env_of()
    env.reset()
    inside, seen = env._env, []
    stepping = inside.stepping

    def kept(actions: Any) -> Any:
        seen.append((yield from stepping(actions)))
        return seen[-1]

    inside.stepping = kept
    env.step(MISS)
    assert all(set(part) == {"spatial", "temporal"} for part in seen[0])


def sampled(answers: int, steps: int) -> MultiAgentEpisode:
    env = env_of(FailsAfter(answers))
    episode = MultiAgentEpisode(observation_space=env.observation_spaces, action_space=env.action_spaces,
                                agent_to_module_mapping_fn=lambda agent, episode, **_: agent)
    observations, infos = env.reset()
    episode.add_env_reset(observations=observations, infos=infos)
    for _ in range(steps):
        observations, rewards, terminated, truncated, infos = env.step(MISS)
        episode.add_env_step(observations, MISS, rewards, infos, terminateds=terminated, truncateds=truncated)
    return episode


def test_a_step_that_no_victim_answered_is_not_learned_from() -> None:
    samples = [sampled(4, 4), sampled(9, 3), sampled(1, 1)]
    assert [len(episode) for episode in samples] == [4, 3, 1]
    samples = [episode.to_numpy() for episode in samples]
    EpisodeCounts().on_sample_end(samples=samples)
    assert [len(episode) for episode in samples] == [3, 3]
    cut = samples[0].agent_episodes["temporal"]
    assert np.isfinite(cut.rewards).all() and len(cut.observations[OWN] if isinstance(cut.observations, dict) else cut) >= 3
    assert not samples[0].is_done


def test_episodes_are_counted_and_a_failed_one_has_no_return() -> None:
    class Logger:
        def __init__(self) -> None:
            self.sums: dict[str, float] = {}

        def log_value(self, key: tuple[str, str], value: float, reduce: str) -> None:
            self.sums[key[1]] = self.sums.get(key[1], 0.0) + value

    logger = Logger()
    EpisodeCounts().on_episode_end(episode=sampled(3, 3), metrics_logger=logger)
    assert logger.sums == {"episodes": 1, "queries": 3, "fooled": 0, "infra_errors": 1, "returns": 0}
