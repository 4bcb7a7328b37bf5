"""The attackers' environment as RLlib takes it: ordered agents, spaces by agent, and an end that cannot be missed.

RLlib's own wrapper of PettingZoo orders agents by a set, leaves the spaces by agent unset, never ends an episode in which one
agent terminates while another is truncated, and writes into the environment's dicts. Only workers and whoever trains import
this file: it loads RLlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from squall.actors.video_attack_env import INFRA_ERROR, Begun, Stepped, VideoAttackEnv
from squall.algorithms.video_attack.asking import Asking, ask_together

OWN, MASK, OTHERS = "own", "mask", "others"
"""Keys of an agent's observation: what it sees, what it may choose, and, for a centralised critic, what the others see."""
COUNTS = ("episodes", "queries", "fooled", "infra_errors", "returns")
"""What an iteration adds up over the episodes that end in it."""


class AttackerEnv(MultiAgentEnv):
    """A `VideoAttackEnv` with flat masks and, where the critic is centralised, what the others see."""

    def __init__(self, env: VideoAttackEnv, centralised: bool) -> None:
        self._env, self._centralised = env, centralised
        self.ask, self.shapes = env.ask, env.shapes
        self.possible_agents = list(env.possible_agents)
        self.agents = list(self.possible_agents)
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        views = {agent: env.observation_space(agent)["observation"] for agent in self.possible_agents}
        self.observation_spaces = {agent: self._space_of(agent, views) for agent in self.possible_agents}
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:
        """Begin an episode. The order of clips follows from the environment's own seed, not from RLlib's."""
        return ask_together([self.resetting()], self.ask)[0]

    def step(self, actions: Mapping[str, Any]) -> Stepped:
        """One step of all agents; it ends when the environment has no agents any more."""
        return ask_together([self.stepping(actions)], self.ask)[0]

    def resetting(self) -> Asking[Begun]:
        """`reset`, for whoever asks about the clips of several environments together."""
        observations, infos = yield from self._env.resetting()
        self.agents = list(self._env.agents)
        return self._told(observations), dict(infos)

    def stepping(self, actions: Mapping[str, Any]) -> Asking[Stepped]:
        """`step`, for whoever asks about the clips of several environments together."""
        observations, rewards, terminated, truncated, infos = yield from self._env.stepping(actions)
        self.agents = list(self._env.agents)
        over = not self.agents
        failed = any(truncated.values())
        return (self._told(observations), dict(rewards), {**terminated, "__all__": over and not failed},
                {**truncated, "__all__": over and failed}, dict(infos))

    def close(self) -> None:
        """Close the environment inside."""
        self._env.close()

    def _space_of(self, agent: str, views: Mapping[str, spaces.Space]) -> spaces.Dict:
        size = int(sum(self.action_spaces[agent].nvec))
        others = {name: view for name, view in views.items() if name != agent}
        extra = {OTHERS: spaces.Dict(others)} if self._centralised and others else {}
        return spaces.Dict({OWN: views[agent], MASK: spaces.Box(0.0, 1.0, (size,), np.float32), **extra})

    def _told(self, observations: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        told = {}
        for agent, seen in observations.items():
            others = {name: other["observation"] for name, other in observations.items() if name != agent}
            told[agent] = {OWN: seen["observation"], MASK: np.concatenate(seen["action_mask"]).astype(np.float32),
                           **({OTHERS: others} if self._centralised and others else {})}
        return told


class EpisodeCounts(RLlibCallback):
    """Adds up what episodes say of themselves, and keeps what no victim answered out of the training."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any, **_: Any) -> None:
        """Log an episode's queries, flip, failure and return."""
        agent, info = next(iter(episode.get_infos(-1).items()))
        failed = INFRA_ERROR in info
        returned = 0.0 if failed else episode.agent_episodes[agent].get_return()
        for name, value in zip(COUNTS, (1, info["queries"], info["fooled"], failed, returned), strict=True):
            metrics_logger.log_value(("attack", name), float(value), reduce="sum")

    def on_sample_end(self, *, samples: list[Any], **_: Any) -> None:
        """Cut the step off whose reward nobody knows because the victim failed: it is neither good nor bad."""
        kept = [episode[:-1] if _unanswered(episode) else episode for episode in samples]
        samples[:] = [episode for episode in kept if len(episode)]


def _unanswered(episode: Any) -> bool:
    return any(len(one) and np.isnan(one.get_rewards(-1)) for one in episode.agent_episodes.values())
