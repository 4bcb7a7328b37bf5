"""How attackers learn, and what an iteration of it says; this loads no RLlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from squall.actors.resources import Demand
from squall.algorithms.video_attack.actions import AGENTS
from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.config import AttackConfig
from squall.platform.config import Config

if TYPE_CHECKING:
    from squall.actors.video_attack_env import VideoAttackEnv

Labelled = tuple[np.ndarray, int]
"""A clip, uint8 (T, H, W, 3), and its class."""


class MakeEnv(Protocol):
    """Makes the environment of one runner; it travels to the runners, so it can be pickled."""

    def __call__(self, clips: Sequence[Labelled], ask: Ask, seed: int) -> VideoAttackEnv: ...


class AttackerTrainingConfig(Config):
    """How the attackers learn, by PPO (arXiv 1707.06347) with a policy for each agent (IPPO, arXiv 2011.09533) or, with the
    centralised critic, MAPPO (arXiv 2103.01955) with critics of their own."""

    iterations: int = Field(40, ge=1)
    """Each collects steps, then learns from them."""
    steps_per_iteration: int = Field(512, ge=8)
    """Environment steps, of one query each, that an iteration collects at least."""
    minibatch_steps: int = Field(64, ge=2)
    """Steps of one gradient step."""
    epochs: int = Field(8, ge=1)
    """How often an iteration goes over its steps."""
    learning_rate: float = Field(2e-3, gt=0)
    """Of Adam."""
    discount: float = Field(0.95, gt=0, le=1)
    """Of rewards, for each step."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Of generalised advantage estimation (arXiv 1506.02438)."""
    clip_ratio: float = Field(0.2, gt=0)
    """How far from 1 the ratio of new to old probability of an action still counts."""
    entropy: float = Field(0.01, ge=0)
    """Reward for each nat of a policy's entropy, so that it goes on trying."""
    width: int = Field(32, ge=1)
    """Channels of the networks."""
    centralised_critic: bool = True
    """Critics see what all agents see; the policies never do."""
    agents: Literal["both", "spatial", "temporal"] = "both"
    """Who is trained; a companion plays the other agent, in training and in attacks."""
    companion: Literal["random", "fixed"] = "random"
    """What the agent does that is not trained: `random` draws from what is allowed, `fixed` is the first place, and for the
    temporal agent all frames."""
    runners: int = Field(1, ge=0)
    """Processes that attack clips in order to learn; 0 does so in the driver, whose steps then wait for the victim."""
    clips_at_once: int = Field(8, ge=1)
    """Attacks that each of them is in the middle of; the policies decide for all of them together."""
    runner_cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each."""
    sample_timeout_s: float = Field(600.0, gt=0)
    """How long runners may take for their part of an iteration; what is late is lost, and the iteration done again."""
    max_failures: int = Field(10, ge=0)
    """Iterations in a row that may fail before training is given up: no step was sampled, or a loss or weight is not finite."""
    checkpoint_every: int = Field(10, ge=1)
    """Iterations between two checkpoints; there is one at the end."""
    seed: int = 0
    """Of weights, order of clips, actions and companion."""

    @model_validator(mode="after")
    def _consistent(self) -> AttackerTrainingConfig:
        if self.minibatch_steps > self.steps_per_iteration:
            raise ValueError(f"minibatch_steps {self.minibatch_steps} is more than steps_per_iteration "
                             f"{self.steps_per_iteration}")
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        """The agents that learn, in order."""
        return AGENTS if self.agents == "both" else (self.agents,)


def training_demands(config: AttackerTrainingConfig) -> tuple[Demand, ...]:
    """What training reserves on the cluster beside the victim: for a job's `demands`, by which `squall tune` sizes a sweep."""
    return (Demand("attacker", config.runners, config.runner_cpus),) if config.runners else ()


def env_maker(attack: AttackConfig, training: AttackerTrainingConfig) -> MakeEnv:
    """Makes `VideoAttackEnv`s in which the trained agents act and a companion plays the other one."""
    return partial(_video_attack_env, attack, training.trained, training.companion)


def _video_attack_env(attack: AttackConfig, agents: tuple[str, ...], companion: Any, clips: Sequence[Labelled], ask: Ask,
                      seed: int) -> VideoAttackEnv:
    from squall.actors.video_attack_env import VideoAttackEnv

    return VideoAttackEnv(clips, ask, attack, seed, agents, companion)


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration did."""

    number: int
    """From 1."""
    steps: int
    """Of the environments; each is one query."""
    episodes: int
    """Attacks that ended in it; steps of others are learned from too."""
    fooled: int
    """Of these, attacks that ended with the flip."""
    infra_errors: int
    """Of these, attacks cut short because the victim could not be reached."""
    queries: int
    """Of the attacks that ended; the ledger counts all."""
    returns: float
    """Rewards of the attacks that came to their own end, summed."""
    failures: int
    """Iterations that failed before this one went well."""
    seconds: float
    losses: Mapping[str, Mapping[str, float]]
    """By agent: policy_loss, vf_loss, vf_explained_var and entropy."""

    @property
    def metrics(self) -> dict[str, float]:
        """Flat, for metrics.jsonl and Tune; means only where an attack came to its end."""
        ended = self.episodes - self.infra_errors
        means = {"success": self.fooled / ended, "return": self.returns / ended,
                 "queries_per_episode": self.queries / self.episodes} if ended else {}
        plain = {name: getattr(self, name) for name in ("steps", "episodes", "infra_errors", "failures")}
        found = {**plain, **means, "steps_per_s": self.steps / self.seconds}
        return {f"attackers/{name}": value for name, value in found.items()} | {
            f"{agent}/{name}": value for agent, losses in self.losses.items() for name, value in losses.items()}
