"""What the checks for gradient masking look at, and the attacks that a run must make for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from squall.algorithms.attacks.base import Attack, Norm, Threat
from squall.platform.errors import DataError

FEWEST_IMAGES = 10
"""With fewer, nothing that an attack does is beyond chance."""

Role = Literal["gradient", "one_step", "black_box", "noise", "schedule"]
"""What an attack may know: `gradient` is iterative, a `schedule` has several of them and counts for the worst case alone."""


class Trial(NamedTuple):
    """An attack at a budget."""

    attack: str
    norm: Norm
    epsilon: float

    def __str__(self) -> str:
        return f"{self.attack} at {self.norm} {self.epsilon:.4g}"


@dataclass(frozen=True)
class Evidence:
    """What an attack run measured on the n images that one model has right when clean."""

    fooled: Mapping[Trial, np.ndarray]
    """bool (n,) each, over the same images in the same order. Examples made on other models are attacks too."""
    roles: Mapping[str, Role]
    """Of each attack by name: `role_of` it; transfer is `black_box`."""
    headline: str
    """The attack, by name, whose figure is on trial: PGD."""
    shape: tuple[int, ...]
    """Of an image: says from which epsilon on a budget is unlimited."""
    zero_gradients: np.ndarray | None = None
    """bool (m,): images whose gradient is exactly zero in float32; any images will do."""

    def __post_init__(self) -> None:
        sizes = {array.shape for array in self.fooled.values()}
        if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
            raise DataError(f"outcomes of one model's attacks have shapes {sorted(sizes)}; expected one (images,)")
        unknown = sorted({trial.attack for trial in self.fooled} - set(self.roles))
        if unknown:
            raise DataError(f"attack {unknown[0]!r} has no role; known: {', '.join(sorted(self.roles))}")

    def of(self, role: Role) -> dict[Trial, np.ndarray]:
        """Trials of attacks with this role; none where there are too few images to say anything."""
        return {trial: fooled for trial, fooled in self.fooled.items()
                if self.roles[trial.attack] == role and len(fooled) >= FEWEST_IMAGES}

    def is_unlimited(self, trial: Trial) -> bool:
        return trial.epsilon >= unlimited(trial.norm, self.shape) * (1 - 1e-9)

    def gradient_attack(self, norm: Norm, epsilon: float) -> Trial | None:
        """The headline attack at a budget; without it the gradient attack that fooled most images there."""
        chosen = Trial(self.headline, norm, epsilon)
        return chosen if chosen in self.fooled else self.best_gradient_attack(norm, epsilon)

    def best_gradient_attack(self, norm: Norm, epsilon: float) -> Trial | None:
        candidates = [trial for trial in self.of("gradient") if trial[1:] == (norm, epsilon)]
        return max(candidates, key=lambda trial: int(self.fooled[trial].sum()), default=None)


class Probe(NamedTuple):
    """An attack that the checks need, as `parse_attack` reads it, and its budget."""

    entry: str | Mapping[str, Any]
    threat: Threat


def masking_attacks(threat: Threat, shape: Sequence[int], headline: str | Mapping[str, Any] = "pgd") -> tuple[Probe, ...]:
    """What a run must try beside its own attacks at `threat` for all checks to be possible.

    Args:
        shape: of an image.
        headline: entry of the attack on trial.
    """
    def at(epsilon: float) -> Threat:
        return threat.model_copy(update={"epsilon": epsilon})

    box = unlimited(threat.norm, shape)
    larger = [at(factor * threat.epsilon) for factor in (2, 4) if factor * threat.epsilon < box]
    one_step = {"kind": "pgd", "name": "fgsm", "steps": 1, "random_start": False}
    everything = {"kind": "pgd", "name": "pgd-unlimited", "steps": 100}
    return (*(Probe(headline, one) for one in (threat, *larger)), *(Probe("noise", one) for one in (threat, *larger, at(box))),
            Probe(one_step, threat), Probe("square", threat), Probe(everything, at(box)))


def unlimited(norm: Norm, shape: Sequence[int]) -> float:
    """Epsilon within which all images of a shape lie."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(shape))


def role_of(attack: Attack) -> Role:
    """What a configured attack may know."""
    known: dict[str, Role] = {"square": "black_box", "noise": "noise", "autoattack": "schedule"}
    if attack.kind == "pgd" and attack.model_dump()["steps"] == 1:
        return "one_step"
    return known.get(attack.kind, "gradient")
