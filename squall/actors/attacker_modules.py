"""RLlib's view of the attackers: the plain networks as RLModules of the new API stack, with what is not allowed masked out.

Only workers and whoever trains import this file: it loads RLlib.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from squall.actors.attacker_env import MASK, OTHERS, OWN, AttackerEnv
from squall.algorithms.video_attack.policy import Actor, Critic
from squall.platform.seeds import derive_seed


class AttackerModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """One agent: its actor, which alone acts and is exported, and the critic of its training.

    RLlib takes agents in the order of sets, which is another in every process. So each agent draws its first weights and its
    actions from numbers of its own, which follow from the process's seed.
    """

    def setup(self) -> None:
        """Build the networks for this agent's spaces."""
        own = derive_seed(torch.initial_seed(), self.model_config["agent"])
        self._random_state = torch.Generator().manual_seed(own).get_state()
        width, views = self.model_config["width"], [self.observation_space[OWN], *self._others]
        with self._own_draws():
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

    def _forward_exploration(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        forward = self._forward(batch)
        choices = self.action_dist_cls.from_logits(forward[Columns.ACTION_DIST_INPUTS])
        with self._own_draws():
            actions = choices.sample()
        return forward | {Columns.ACTIONS: actions, Columns.ACTION_LOGP: choices.logp(actions)}

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        others = torch.get_rng_state()
        torch.set_rng_state(self._random_state)
        try:
            yield
        finally:
            self._random_state = torch.get_rng_state()
            torch.set_rng_state(others)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Values (B,) of the steps of a batch."""
        seen = batch[Columns.OBS]
        return self.critic([seen[OWN], *(seen[OTHERS][name] for name in sorted(seen.get(OTHERS, {})))])

    @property
    def _others(self) -> list[spaces.Box]:
        others = self.observation_space.spaces.get(OTHERS)
        return [] if others is None else [others[name] for name in sorted(others.spaces)]


class AttackerLearner(PPOTorchLearner):
    """PPO whose minibatches are drawn for one agent after the other in the order of their names."""

    def build(self) -> None:
        """Add the order to what makes batches."""
        super().build()
        self._learner_connector.append(_ByName())


class _ByName(ConnectorV2):
    def __call__(self, *, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The parts of a batch, each one agent's, by its name."""
        return dict(sorted(batch.items()))


def module_specs(env: AttackerEnv, width: int) -> MultiRLModuleSpec:
    """One module for each agent, with weights of its own."""
    return MultiRLModuleSpec(rl_module_specs={
        agent: RLModuleSpec(module_class=AttackerModule, observation_space=env.observation_spaces[agent],
                            action_space=env.action_spaces[agent],
                            model_config={"agent": agent, "width": width, "shape": env.shapes[agent]})
        for agent in env.possible_agents})
