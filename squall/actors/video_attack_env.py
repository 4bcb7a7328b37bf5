"""`VideoAttackEnv`: two agents, `spatial` and `temporal`, who attack clips of a victim together. A PettingZoo `ParallelEnv`.

An episode is an attack on one clip, by the rules of `Episode`; a step is one query. It terminates with the flip, the budget or
the last step, and is truncated when the victim cannot be reached: the reward of that step is NaN, because nobody knows it, and
``infos[agent]["infra_error"]`` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from ray.exceptions import RayError

from squall.actors.attacker_config import Labelled
from squall.actors.victim_client import VictimUnavailable
from squall.algorithms.video_attack.actions import AGENTS
from squall.algorithms.video_attack.asking import Ask, Asking, ask_together
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode, StepResult
from squall.algorithms.video_attack.policy import Companion, agent_shapes, companion_action
from squall.platform.errors import DataError
from squall.platform.seeds import derive_seed

INFRA_ERROR = "infra_error"
"""Key of an agent's info that says why the victim could not be asked."""
UNREACHABLE: tuple[type[Exception], ...] = (VictimUnavailable, RayError, ConnectionError, TimeoutError)
"""What asking raises when the victim's process, machine or network fails."""
Observations = dict[str, dict[str, Any]]
Infos = dict[str, dict[str, Any]]
Begun = tuple[Observations, Infos]
Stepped = tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]


class VideoAttackEnv(ParallelEnv):
    """Attacks on clips of one size, in an order drawn anew for every pass over them."""

    metadata = {"name": "video_attack_v0", "render_modes": []}

    def __init__(self, clips: Sequence[Labelled], ask: Ask, config: AttackConfig, seed: int = 0,
                 agents: Sequence[str] = AGENTS, companion: Companion = "random",
                 infra_errors: tuple[type[Exception], ...] = UNREACHABLE) -> None:
        """Check that the first clip can be attacked; nothing is asked.

        Args:
            seed: of the first episodes, if `reset` is not given another.
            agents: who acts; a `companion` plays the others.
            infra_errors: what `ask` raises when the victim cannot be reached; other errors are raised.

        Raises:
            DataError: there are no clips, or they are not of one size.
            ConfigError: the grid does not divide them, or the budget is below one sweep.
        """
        shapes = sorted({clip.shape for clip, _ in clips})
        if len(shapes) != 1:
            raise DataError(f"attackers learn on clips of one size, and these have {len(shapes)}: "
                            f"{', '.join(map(str, shapes[:3])) or 'there are none'}", reason="clip_sizes")
        self.ask = ask
        """The victim."""
        self._clips, self._config, self._companion, self._infra_errors = clips, config, companion, infra_errors
        self.possible_agents = [agent for agent in AGENTS if agent in agents]
        self.agents: list[str] = []
        blank = Episode(clips[0][0], clips[0][1], config, 0)
        self.observation_spaces = {agent: _observation_space(blank, agent) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.MultiDiscrete(blank.action_spaces[agent]) for agent in self.possible_agents}
        self.shapes = agent_shapes(blank)
        """What each agent sees and decides, for its networks."""
        self.episode = blank
        """The attack under way."""
        self._begin(seed)

    def observation_space(self, agent: str) -> spaces.Space:
        """Of ``{"observation": float32 (C, *places) in [-1, 1], "action_mask": int8 for each choice}``."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """One index for each of the agent's choices; what the mask forbids is taken too, and has no or another effect."""
        return self.action_spaces[agent]

    def state(self) -> np.ndarray:
        """What both agents see, one float32 vector, for a centralised critic."""
        seen = self.episode.observations()
        return np.concatenate([seen[agent].ravel() for agent in AGENTS])

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:
        """Begin an attack on the next clip that the victim classifies correctly; the others are left out from then on.

        Raises:
            DataError: there is none (reason ``nothing_to_attack``), or the victim returned no probabilities.
        """
        return ask_together([self.resetting(seed)], self.ask)[0]

    def step(self, actions: Mapping[str, Any]) -> Stepped:
        """One query. Actions hold an index for each choice of each agent."""
        return ask_together([self.stepping(actions)], self.ask)[0]

    def resetting(self, seed: int | None = None) -> Asking[Begun]:
        """`reset`, for whoever asks about the clips of several environments together."""
        if seed is not None:
            self._begin(seed)
        for _ in range(2 * len(self._clips)):
            number = self._next()
            clip, label = self._clips[number]
            self._episodes += 1
            self.episode = Episode(clip, label, self._config, derive_seed(self._seed, "episode", self._episodes))
            self.episode.absorb((yield self.episode.start()))
            if not self.episode.done:
                self.agents = list(self.possible_agents)
                return self._observations(), self._infos()
            if not self.episode.correct:
                self._wrong.add(number)
        raise self._nothing()

    def stepping(self, actions: Mapping[str, Any]) -> Asking[Stepped]:
        """`step`, for whoever asks about the clips of several environments together."""
        masks, failure = self.episode.action_masks, None
        chosen = [actions[agent] if agent in self.possible_agents
                  else companion_action(self._companion, agent, masks[agent], self._generator) for agent in AGENTS]
        try:
            result = self.episode.absorb((yield self.episode.propose(*chosen)))
        except self._infra_errors as error:
            result, failure = StepResult(math.nan, False, False), f"{type(error).__name__}: {error}"
        if result.done or failure is not None:
            self.agents = []
        return (self._observations(), self._each(result.reward), self._each(result.done), self._each(failure is not None),
                self._infos(failure))

    def _begin(self, seed: int) -> None:
        self._seed, self._episodes = seed, 0
        self._generator = np.random.default_rng(derive_seed(seed, "clips"))
        self._order: list[int] = []
        self._wrong: set[int] = set()

    def _next(self) -> int:
        """Number of the next clip of a pass over all that are not left out."""
        if not self._order:
            self._order = [int(number) for number in self._generator.permutation(len(self._clips)) if number not in self._wrong]
        if not self._order:
            raise self._nothing()
        return self._order.pop()

    def _nothing(self) -> DataError:
        right = len(self._clips) - len(self._wrong)
        return DataError(f"the victim classifies {right} of {len(self._clips)} clips correctly, and none of them is left to "
                         "attack; see that labels and classes belong together", reason="nothing_to_attack")

    def _observations(self) -> Observations:
        seen, masks = self.episode.observations(), self.episode.action_masks
        return {agent: {"observation": seen[agent], "action_mask": tuple(mask.astype(np.int8) for mask in masks[agent])}
                for agent in self.possible_agents}

    def _infos(self, failure: str | None = None) -> Infos:
        episode = self.episode
        info = {"queries": episode.queries, "fooled": episode.flipped, "p_label": episode.p_label}
        return {agent: info | ({} if failure is None else {INFRA_ERROR: failure}) for agent in self.possible_agents}

    def _each(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)


def _observation_space(episode: Episode, agent: str) -> spaces.Dict:
    return spaces.Dict({
        "observation": spaces.Box(-1.0, 1.0, episode.observation_shapes[agent], np.float32),
        "action_mask": spaces.Tuple([spaces.MultiBinary(options) for options in episode.action_spaces[agent]])})
