"""Attackers as plain torch: what they may choose, that they learn nothing of a clip's size, and what is written of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spot_victim import Spot, noise_clip

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode, play
from squall.algorithms.video_attack.policy import (
    Actor,
    AttackerPolicy,
    Critic,
    agent_shapes,
    companion_action,
    describe,
    rebuild,
    weights,
)
from squall.platform.errors import DataError


def episode_of(side: int = 32, frames: int = 8, **keys: Any) -> Episode:
    clip = noise_clip(0, frames, side, side)
    return Episode(clip, 0, AttackConfig(**{"block": 2, "cell": 8, "max_queries": 100} | keys), seed=1)


def policy_of(episode: Episode, *agents: str, **keys: Any) -> AttackerPolicy:
    torch.manual_seed(0)
    shapes = agent_shapes(episode)
    return AttackerPolicy({agent: Actor(shapes[agent], 8) for agent in agents or shapes}, **keys)


def acted(policy: AttackerPolicy, episode: Episode, seed: int = 0, **keys: Any) -> dict[str, list[int]]:
    actions = policy.act(episode.observations(), episode.action_masks, np.random.default_rng(seed), **keys)
    return {agent: action.tolist() for agent, action in actions.items()}


@pytest.mark.parametrize("keys", [{}, {"cells_per_step": 3}, {"max_length_blocks": 2}, {"max_length_blocks": 4}])
def test_an_agent_has_as_many_options_as_an_episode(keys: dict[str, int]) -> None:
    for episode in (episode_of(**keys), episode_of(side=48, frames=12, **keys)):
        shapes, seen = agent_shapes(episode), episode.observation_shapes
        for agent, sizes in episode.action_spaces.items():
            assert tuple(shapes[agent].sizes(int(np.prod(seen[agent][1:])))) == sizes


def test_what_the_mask_forbids_is_never_drawn_and_what_it_allows_is() -> None:
    episode, generator = episode_of(), np.random.default_rng(0)
    policy, masks = policy_of(episode), dict(episode.action_masks)
    masks["spatial"] = (np.isin(np.arange(16), [3, 7]), np.arange(17) == 16)
    drawn = {tuple(policy.act(episode.observations(), masks, generator)["spatial"].tolist()) for _ in range(60)}
    assert drawn == {(3, 16), (7, 16)}


def test_draws_follow_the_probabilities_and_greedy_takes_the_likeliest() -> None:
    episode = episode_of()
    policy, generator = policy_of(episode), np.random.default_rng(0)
    with torch.no_grad():
        policy.actors["temporal"].places.bias[0] = 0.0
        policy.actors["temporal"].places.weight.mul_(400)
        seen = torch.from_numpy(episode.observations()["temporal"])[None]
        expected = policy.actors["temporal"](seen, torch.ones(1, 8))[0, :4].softmax(0).numpy()
    observations, masks = episode.observations(), episode.action_masks
    firsts = [policy.act(observations, masks, generator)["temporal"][0] for _ in range(600)]
    assert expected.max() - expected.min() > 0.15
    assert np.abs(np.bincount(firsts, minlength=4) / 600 - expected).max() < 0.06
    assert acted(policy, episode, greedy=True)["temporal"][0] == expected.argmax()


def test_the_same_seed_draws_the_same_attack() -> None:
    victim = Spot(noise_clip())
    outcomes = [play(episode_of(), victim, policy_of(episode_of()).chooser(seed)) for seed in (3, 3, 4)]
    assert outcomes[0].trace == outcomes[1].trace != outcomes[2].trace


def test_attackers_act_on_clips_of_another_size() -> None:
    policy, larger = policy_of(episode_of()), episode_of(side=56, frames=16)
    actions = [acted(policy, larger, seed) for seed in range(40)]
    assert max(action["spatial"][0] for action in actions) > 15  # a place that the first grid has not
    assert max(action["temporal"][0] for action in actions) > 3


def test_a_limit_on_runs_fits_shorter_and_longer_clips() -> None:
    policy = policy_of(episode_of(max_length_blocks=3))
    for frames, longest in ((4, 2), (8, 3), (16, 3)):
        lengths = [acted(policy, episode_of(frames=frames, max_length_blocks=3), seed)["temporal"][1] for seed in range(40)]
        assert set(lengths) == set(range(longest))


def test_another_configuration_is_refused() -> None:
    policy = policy_of(episode_of())
    with pytest.raises(DataError, match=r"the spatial attacker knows 13 channels and, for 16 places, \[16, 17\] options, and "
                                        r"this attack shows it 13 channels and \[16, 16, 17\] options") as raised:
        acted(policy, episode_of(cells_per_step=2))
    assert raised.value.reason == "attacker_misfit"


def test_companions_take_nothing_away() -> None:
    masks = (np.isin(np.arange(16), [2, 5]), np.ones(17, bool))
    generator = np.random.default_rng(0)
    random = {tuple(companion_action("random", "spatial", masks, generator).tolist()) for _ in range(40)}
    assert random == {(2, 16), (5, 16)}
    assert companion_action("fixed", "spatial", masks, generator).tolist() == [2, 16]
    assert companion_action("fixed", "temporal", (np.ones(4, bool), np.ones(3, bool)), generator).tolist() == [0, 2]


def test_an_agent_alone_has_a_companion() -> None:
    episode = episode_of()
    fixed = policy_of(episode, "spatial", companion="fixed")
    assert {tuple(acted(fixed, episode, seed)["temporal"]) for seed in range(5)} == {(0, 3)}
    assert len({tuple(acted(policy_of(episode, "spatial"), episode, seed)["temporal"]) for seed in range(20)}) > 5


@pytest.mark.parametrize("agents", [("spatial", "temporal"), ("temporal",)])
def test_a_policy_is_rebuilt_from_plain_values(agents: tuple[str, ...]) -> None:
    episode = episode_of()
    policy = policy_of(episode, *agents, companion="fixed")
    again = rebuild(describe(policy), weights(policy))
    assert again.companion == "fixed"
    assert [acted(again, episode, seed) for seed in range(5)] == [acted(policy, episode, seed) for seed in range(5)]


@pytest.mark.parametrize("change", [
    {"agents": {}}, {"companion": "clever"}, {"agents": {"spatial": {"channels": 13}}}, {"agents": {"other": {}}},
    {"agents": 3}])
def test_what_describes_no_attacker_is_refused(change: dict[str, Any]) -> None:
    policy = policy_of(episode_of(), "spatial")
    with pytest.raises(DataError, match="damaged attacker") as raised:
        rebuild(describe(policy) | change, weights(policy))
    assert raised.value.reason == "damaged_attacker"
    with pytest.raises(DataError, match="damaged attacker: "):
        rebuild(describe(policy), {"spatial.trunk.near.weight": torch.zeros(1)})


def test_a_centralised_critic_hears_the_other_agent() -> None:
    torch.manual_seed(0)
    own, other = torch.rand(3, 13, 4, 4), torch.rand(3, 12, 4)
    critic = Critic([(13, 2), (12, 1)], 8)
    assert critic([own, other]).shape == (3,)
    assert not torch.allclose(critic([own, other]), critic([own, other * 0]))
