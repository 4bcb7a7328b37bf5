"""The attackers' networks as plain torch, and a policy that acts with them: whoever attacks needs no RLlib.

Both see maps of places: the spatial agent cells of the grid, the temporal one blocks of frames. Convolutions over places,
and choices that have a logit for each place, let trained attackers work on clips of another size.

Shapes: B steps, C channels, P places (rows x columns, or blocks), A the options of all of an agent's choices in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from squall.algorithms.video_attack.actions import AGENTS, Masks
from squall.algorithms.video_attack.episode import Choose, Episode
from squall.platform.errors import DataError

MASKED = -1e9
"""Logit of an option that is not allowed; its probability in float32 is exactly 0."""
WAVES = 3
"""Cosines along each axis that tell a convolution where it is (CoordConv, arXiv 1807.03247, with waves for its ramps)."""

Companion = Literal["fixed", "random"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the things that an agent decides in a step."""

    maps: int
    """Options for each place, map after map."""
    extra: int
    """Options that belong to no place, such as taking nothing away; they come last."""

    def options(self, places: int) -> int:
        """Options on another number of places."""
        return self.maps * places + self.extra


@dataclass(frozen=True, slots=True)
class AgentShape:
    """What an agent sees and decides, on clips of any size."""

    channels: int
    axes: int
    """2 for rows and columns of cells, 1 for blocks of frames."""
    choices: tuple[Choice, ...]

    def sizes(self, places: int) -> list[int]:
        """Options of each choice on so many places."""
        return [choice.options(places) for choice in self.choices]


def agent_shapes(episode: Episode) -> dict[str, AgentShape]:
    """What each agent sees and decides in episodes like this one. The longest run of blocks, where it has a limit, is the same
    on clips of any length."""
    config, seen, limit = episode.config, episode.observation_shapes, episode.config.max_length_blocks
    length = Choice(1, 0) if limit is None else Choice(0, episode.action_spaces["temporal"][1])
    choices = {"spatial": (Choice(1, 0),) * config.cells_per_step + (Choice(1, 1),), "temporal": (Choice(1, 0), length)}
    return {agent: AgentShape(seen[agent][0], len(seen[agent]) - 1, choices[agent]) for agent in AGENTS}


class Trunk(nn.Module):
    """Two convolutions over places, the second of which also hears what there is elsewhere."""

    def __init__(self, channels: int, axes: int, width: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if axes == 1 else nn.Conv2d
        self.near = convolution(channels + axes * WAVES, width, 3, padding=1)
        self.far = nn.Linear(2 * width, width)
        self.mixed = convolution(width, width, 3, padding=1)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Features (B, width, \\*P) of an observation (B, C, \\*P)."""
        places = waves(tuple(observation.shape[2:])).to(observation).expand(len(observation), -1, *observation.shape[2:])
        near = torch.relu(self.near(torch.cat([observation, places], dim=1)))
        far = self.far(pooled(near))
        return torch.relu(self.mixed(near) + far.reshape(*far.shape, *[1] * (near.ndim - 2)))


class Actor(nn.Module):
    """Logits of an agent's choices."""

    def __init__(self, shape: AgentShape, width: int) -> None:
        super().__init__()
        self.shape = shape
        convolution = nn.Conv1d if shape.axes == 1 else nn.Conv2d
        self.trunk = Trunk(shape.channels, shape.axes, width)
        self.places = convolution(width, sum(choice.maps for choice in shape.choices), 1)
        self.extras = nn.Linear(2 * width, sum(choice.extra for choice in shape.choices) + 1)  # one too many: 0 would warn
        for head in (self.places, self.extras):  # a new attacker has no preferences
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, observation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, A) from an observation (B, C, \\*P) and what is allowed (B, A), 0 or 1."""
        features = self.trunk(observation)
        maps = self.places(features).flatten(2).split([choice.maps for choice in self.shape.choices], dim=1)
        *extras, _ = self.extras(pooled(features)).split([*(choice.extra for choice in self.shape.choices), 1], dim=1)
        logits = torch.cat([part for pair in zip(maps, extras, strict=True) for part in (pair[0].flatten(1), pair[1])], dim=1)
        return logits.masked_fill(mask < 0.5, MASKED)


class Critic(nn.Module):
    """What the rest of an episode is worth, from one agent's view or, centralised, from the views of all."""

    def __init__(self, views: Sequence[tuple[int, int]], width: int) -> None:
        """`views` are channels and axes of each observation."""
        super().__init__()
        self.trunks = nn.ModuleList(Trunk(channels, axes, width) for channels, axes in views)
        self.value = nn.Sequential(nn.Linear(2 * width * len(views), 2 * width), nn.Tanh(), nn.Linear(2 * width, 1))

    def forward(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Values (B,) from observations (B, C, \\*P)."""
        seen = [pooled(trunk(view)) for trunk, view in zip(self.trunks, views, strict=True)]
        return self.value(torch.cat(seen, dim=1)).squeeze(1)


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over places: (B, 2 W) of (B, W, \\*P)."""
    flat = features.flatten(2)
    return torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)


@lru_cache(maxsize=64)
def waves(sides: tuple[int, ...]) -> torch.Tensor:
    """cos(pi k p), k = 1..WAVES, of the place p in [0, 1] along each axis: float32 (axes WAVES, \\*P)."""
    found = []
    for axis, side in enumerate(sides):
        wave = torch.cos(torch.pi * torch.arange(1, WAVES + 1)[:, None] * (torch.arange(side) + 0.5) / side)
        found.append(wave.reshape(WAVES, *(side if other == axis else 1 for other in range(len(sides)))).expand(WAVES, *sides))
    return torch.cat(found)


class AttackerPolicy:
    """Trained attackers; an agent that was not trained is played by a companion, which knows nothing."""

    def __init__(self, actors: Mapping[str, Actor], companion: Companion = "random") -> None:
        self.actors = {name: actors[name].eval() for name in AGENTS if name in actors}
        self.companion: Companion = companion

    def act(self, observations: Mapping[str, np.ndarray], masks: Masks, generator: np.random.Generator,
            greedy: bool = False) -> dict[str, np.ndarray]:
        """What each agent does.

        Args:
            observations: float32 (C, \\*P) of each agent.
            masks: what each may choose: for each of its choices a bool array over the options.
            generator: draws actions from the policy, and the companion's.
            greedy: take the likeliest options in place of drawn ones.

        Returns:
            For each agent int64 indices, one for each of its choices.

        Raises:
            DataError: an observation or a mask does not fit what the attackers were trained on (reason ``attacker_misfit``).
        """
        return {name: self._act(name, observations[name], masks[name], generator, greedy) if name in self.actors
                else companion_action(self.companion, name, masks[name], generator) for name in AGENTS}

    def chooser(self, seed: int, greedy: bool = False) -> Choose:
        """For `episode.play`: what the agents do in an episode as it stands."""
        generator = np.random.default_rng(seed)

        def choose(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
            actions = self.act(episode.observations(), episode.action_masks, generator, greedy)
            return actions["spatial"], actions["temporal"]

        return choose

    @torch.inference_mode()
    def _act(self, name: str, observation: np.ndarray, masks: Sequence[np.ndarray], generator: np.random.Generator,
             greedy: bool) -> np.ndarray:
        actor = self.actors[name]
        masks = _fitted(actor.shape, name, observation.shape, masks)
        sizes = [len(mask) for mask in masks]
        logits = actor(torch.from_numpy(np.asarray(observation, np.float32))[None],
                       torch.from_numpy(np.concatenate(masks).astype(np.float32))[None])[0].double().numpy()
        if not greedy:  # the largest of logits with Gumbel noise is a draw from their softmax
            logits = logits + generator.gumbel(size=logits.shape)
        return np.array([part.argmax() for part in np.split(logits, np.cumsum(sizes)[:-1])], np.int64)


def _fitted(shape: AgentShape, name: str, seen: Sequence[int], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks over the options that the attackers were trained on: a clip may be too short for the longest run."""
    sizes = shape.sizes(math.prod(seen[1:]))
    fits = (seen[0], len(seen) - 1, len(masks)) == (shape.channels, shape.axes, len(sizes)) and all(
        len(mask) == size or (len(mask) < size and not choice.maps)
        for mask, size, choice in zip(masks, sizes, shape.choices, strict=True))
    if not fits:
        raise DataError(f"the {name} attacker knows {shape.channels} channels and, for {math.prod(seen[1:])} places, {sizes} "
                        f"options, and this attack shows it {seen[0]} channels and {[len(mask) for mask in masks]} options; "
                        "attack with the configuration that it was trained with", reason="attacker_misfit")
    return [mask if len(mask) == size else np.pad(mask, (0, size - len(mask))) for mask, size in zip(masks, sizes, strict=True)]


def companion_action(companion: Companion, agent: str, masks: Sequence[np.ndarray],
                     generator: np.random.Generator) -> np.ndarray:
    """What a companion does in place of a trained agent: one allowed index for each choice.

    ``random`` draws what to distort, ``fixed`` takes the first place, and as the temporal agent the whole clip. Neither of
    them ever takes distortion away.
    """
    allowed = [np.flatnonzero(mask) for mask in masks]
    indices = [generator.choice(options) if companion == "random" else options[0] for options in allowed]
    if agent == "spatial" or companion == "fixed":
        indices[-1] = allowed[-1][-1]  # to take nothing away; the longest run
    return np.array(indices, np.int64)


def describe(policy: AttackerPolicy) -> dict[str, Any]:
    """All of a policy but its weights, as plain JSON values."""
    agents = {name: {"channels": actor.shape.channels, "axes": actor.shape.axes, "width": actor.places.in_channels,
                     "choices": [[choice.maps, choice.extra] for choice in actor.shape.choices]}
              for name, actor in policy.actors.items()}
    return {"agents": agents, "companion": policy.companion}


def weights(policy: AttackerPolicy) -> dict[str, torch.Tensor]:
    """The weights, by agent and name."""
    return {f"{agent}.{name}": tensor for agent, actor in policy.actors.items() for name, tensor in actor.state_dict().items()}


def rebuild(description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> AttackerPolicy:
    """The policy of `describe` and `weights`.

    Raises:
        DataError: they do not belong together (reason ``damaged_attacker``).
    """
    try:
        actors = {name: Actor(AgentShape(one["channels"], one["axes"], tuple(Choice(*pair) for pair in one["choices"])),
                              one["width"]) for name, one in description["agents"].items()}
        if not actors or not set(actors) <= set(AGENTS):
            raise ValueError(f"agents are {list(actors)}")
        for name, actor in actors.items():
            prefix = f"{name}."
            actor.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        if description["companion"] not in get_args(Companion):
            raise ValueError(f"companion is {description['companion']!r}")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"damaged attacker: {' '.join(str(error).split())[:200]}", reason="damaged_attacker") from None
    return AttackerPolicy(actors, description["companion"])
