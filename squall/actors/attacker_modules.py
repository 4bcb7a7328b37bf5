"""RLlib's view of the attackers: the plain networks as RLModules of the new API stack, with what is not allowed masked out.

Only workers and whoever trains import this file: it loads RLlib.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from squall.actors.attacker_env import MASK, OTHERS, OWN, AttackerEnv
from squall.algorithms.video_attack.policy import Actor, Critic


class AttackerModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """One agent: its actor, which alone acts and is exported, and the critic of its training."""

    def setup(self) -> None:
        """Build the networks for this agent's spaces."""
        width, views = self.model_config["width"], [self.observation_space[OWN], *self._others]
        self.actor = Actor(self.model_config["shape"], width)
        self.critic = Critic([(view.shape[0], len(view.shape) - 1) for view in views], width)
        self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(
            input_lens=[int(options) for options in self.action_space.nvec])

    def get_non_inference_attributes(self) -> list[str]:
        """What env runners do without."""
        return ["critic"]

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        seen = batch[Columns.OBS]
        return {Columns.ACTION_DIST_INPUTS: self.actor(seen[OWN], seen[MASK])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Values (B,) of the steps of a batch."""
        seen = batch[Columns.OBS]
        return self.critic([seen[OWN], *(seen[OTHERS][name] for name in sorted(seen.get(OTHERS, {})))])

    @property
    def _others(self) -> list[spaces.Box]:
        others = self.observation_space.spaces.get(OTHERS)
        return [] if others is None else [others[name] for name in sorted(others.spaces)]


def module_specs(env: AttackerEnv, width: int) -> MultiRLModuleSpec:
    """One module for each agent, with weights of its own."""
    return MultiRLModuleSpec(rl_module_specs={
        agent: RLModuleSpec(module_class=AttackerModule, observation_space=env.observation_spaces[agent],
                            action_space=env.action_spaces[agent],
                            model_config={"width": width, "shape": env.shapes[agent]})
        for agent in env.possible_agents})
