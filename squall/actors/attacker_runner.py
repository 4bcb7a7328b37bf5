"""RLlib's environment runner with attacks that ask their victim together. Only workers and whoever trains import this file.

RLlib's own steps one environment after the other, so that a victim is asked about one clip at a time, and gives all of them
the same number, by which these would attack the same clips in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.vector.sync_vector_multi_agent_env import SyncVectorMultiAgentEnv
from ray.tune.registry import ENV_CREATOR, _global_registry

from squall.actors.attacker_env import AttackerEnv
from squall.algorithms.video_attack.asking import ask_together

Told = list[dict[str, Any]]
"""Of each environment, by agent."""


class AttackerRunner(MultiAgentEnvRunner):
    """Collects the steps of `clips_at_once` attacks."""

    def make_env(self) -> None:
        """Build the environments, each with a number of its own."""
        config = self.config
        context = EnvContext(config.env_config, self.worker_index, num_workers=config.num_env_runners)
        create = _global_registry.get(ENV_CREATOR, config.env)
        self.env = AttacksTogether([partial(create, context.copy_with_overrides(vector_index=number))
                                    for number in range(config.num_envs_per_env_runner)])
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True


class AttacksTogether(SyncVectorMultiAgentEnv):
    """Attacks whose steps ask about the clips of all as one batch. One that has ended begins anew in the next step."""

    envs: Sequence[AttackerEnv]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Told, Told]:
        """Begin all attacks. Seeds are the environments' own."""
        begun = ask_together([env.resetting() for env in self.envs], self.envs[0].ask)
        self._autoreset_envs = np.zeros(self.num_envs, bool)
        observations, infos = (list(column) for column in zip(*begun, strict=True))
        return observations, infos

    def step(self, actions: Sequence[Mapping[str, Any]]) -> tuple[Told, Told, Told, Told, Told]:
        """One query of each attack under way, and the clean clips of those that begin."""
        ended = self._autoreset_envs
        stepped = ask_together([_restarting(env) if over else env.stepping(action)
                                for env, action, over in zip(self.envs, actions, ended, strict=True)], self.envs[0].ask)
        observations, rewards, terminated, truncated, infos = (list(column) for column in zip(*stepped, strict=True))
        self._autoreset_envs = np.array([one["__all__"] or other["__all__"]
                                         for one, other in zip(terminated, truncated, strict=True)])
        return observations, rewards, terminated, truncated, infos


def _restarting(env: AttackerEnv) -> Any:
    """`resetting` as the step that RLlib takes it for."""
    observations, infos = yield from env.resetting()
    going_on = dict.fromkeys((*env.possible_agents, "__all__"), False)
    return observations, dict.fromkeys(env.possible_agents, 0.0), going_on, dict(going_on), infos
