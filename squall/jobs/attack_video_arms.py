"""The learned attackers of a run by name: what each may do and how it learns, from the settings that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from squall.actors.attacker_config import AttackerTrainingConfig
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode
from squall.platform.config import validate
from squall.platform.errors import ConfigError, nearest

ARMS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "pair": {},
    "spatial": {"agents": "spatial", "companion": "fixed"},
    "temporal": {"agents": "temporal", "companion": "random"},
    "pair-no-removal": {"removal": False},
})
"""The pair, each agent alone (the spatial one through all frames, the temporal one with places drawn at random), and the pair
without taking cells back."""
SHARED = ("block", "cell", "distortion", "severity", "max_queries")
"""Keys of an attack that all attacks of a run have in common, or they could not be compared."""


@dataclass(frozen=True)
class Arm:
    """Attackers that are trained with every seed."""

    name: str
    attack: AttackConfig
    training: AttackerTrainingConfig
    greedy: bool
    """They attack with their likeliest choices in place of drawn ones."""

    @property
    def asked(self) -> dict[str, Any]:
        """What its results follow from, beside the seed."""
        return {"greedy": self.greedy, "attack": self.attack.model_dump(mode="json"),
                "training": self.training.model_dump(mode="json", exclude={"seed"})}

    @property
    def description(self) -> str:
        """One line: who attacks, how, and how they learned."""
        training = self.training
        who = {"both": "pair of agents", "spatial": f"spatial agent alone, {training.companion} companion",
               "temporal": f"temporal agent alone, {training.companion} companion"}[training.agents]
        parts = [who, "likeliest choices" if self.greedy else "drawn choices",
                 f"PPO, {training.iterations} iterations of {training.steps_per_iteration} queries",
                 *([] if training.centralised_critic else ["a critic for each agent's own view"]),
                 *([] if self.attack.removal else ["no removal"])]
        return "; ".join(parts)


def make_arm(name: str, own: Mapping[str, Any], attack: AttackConfig, training: AttackerTrainingConfig) -> Arm:
    """An arm from what is different about it: keys of `attack`, of `training`, and `greedy`.

    Raises:
        ConfigError: another key or a bad value, or a key that all attacks share.
    """
    where, values = f"attackers.{name}", dict(own)
    greedy = values.pop("greedy", False)
    if not isinstance(greedy, bool):
        raise ConfigError(f"{where}.greedy = {greedy!r}: expected true or false")
    known = [key for key in (*AttackerTrainingConfig.model_fields, *AttackConfig.model_fields) if key not in (*SHARED, "seed")]
    for key in values:
        if key in SHARED:
            raise ConfigError(f"{where}: {key} is the same for all attacks, or they could not be compared; set attack.{key}")
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'.{nearest(key, known)} Allowed here: greedy, {', '.join(known)}")
    parts = [validate(type(part), part.model_dump() | {key: value for key, value in values.items() if key in fields}, where)
             for part in (attack, training) for fields in [type(part).model_fields]]
    return Arm(name, parts[0], parts[1], greedy)


def trained_as(arm: Arm, arms: Sequence[Arm]) -> Arm:
    """The first arm with the same training, which is done once: arms may differ in `greedy` alone."""
    return next(other for other in arms if (other.attack, other.training) == (arm.attack, arm.training))


def try_arm(arm: Arm, shape: tuple[int, ...]) -> None:
    """See that an episode on clips (T, H, W, 3) can begin. Raises ConfigError or DataError where it cannot."""
    Episode(np.random.default_rng(0).integers(0, 256, shape, np.uint8), 0, arm.attack, 0)
