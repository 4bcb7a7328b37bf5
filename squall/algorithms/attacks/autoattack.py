"""AutoAttack (Croce & Hein 2020, section 4): several attacks in turn, each on the images that stood against those before.

The standard schedule is Auto-PGD on cross-entropy, targeted Auto-PGD, targeted FAB and Square Attack with 5,000 queries, the
`version="standard"` of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from squall.algorithms.attacks.apgd import APGDCE, APGDDLR, APGDT
from squall.algorithms.attacks.base import Attack, Component, Oracle, Outcome, Threat
from squall.algorithms.attacks.checks import check_attack
from squall.algorithms.attacks.draws import ReplayDraws
from squall.algorithms.attacks.entries import parse_entry
from squall.algorithms.attacks.fab import FAB, FABT
from squall.algorithms.attacks.noise import Noise
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.attacks.square import Square
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch

COMPONENTS: Mapping[str, type[Component]] = MappingProxyType(
    {kind.kind: kind for kind in (PGD, APGDCE, APGDDLR, APGDT, FAB, FABT, Square, Noise)})
"""Attacks that a schedule may be made of, by kind."""


class AutoAttack(Attack):
    """A schedule of attacks."""

    kind: ClassVar[str] = "autoattack"

    components: tuple[str | dict[str, Any], ...] = Field(("apgd-ce", "apgd-t", "fab-t", "square"), min_length=1)
    """Attacks in the order in which they come, each a kind or a mapping: `{kind: square, queries: 1000}`."""
    mode: Literal["fast", "replay"] = "fast"
    """`fast`: images have random streams of their own and leave once they are fooled; any number of workers. `replay`: the
    robust set of pyautoattack 0.2.0 at the same seed and batch size, by its streams and batches; all images in one worker."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of a replay; otherwise each image has its own."""
    batch_size: int = Field(250, ge=1)
    """Of a replay: images that share a random stream."""

    @field_validator("components")
    @classmethod
    def _known(cls, components: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        try:
            names = [parse_entry(entry, COMPONENTS)[0] for entry in components]
        except ConfigError as error:
            raise ValueError(str(error)) from None
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} comes twice; give each a name of its own")
        return components

    @property
    def indivisible(self) -> bool:
        return self.mode == "replay"

    @property
    def attacks(self) -> tuple[tuple[str, Component], ...]:
        """The components, each with its name."""
        return tuple(parse_entry(entry, COMPONENTS) for entry in self.components)

    def run(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int]) -> Outcome:
        """As `Attack.run`. A component's seed of an image follows from the image's seed and the component's name."""
        check_attack(images, labels, threat, seeds)
        schedule = _Schedule(oracle, images, labels)
        for name, attack in self.attacks:
            rows = schedule.standing()
            if self.mode == "replay":
                for batch in rows.split(self.batch_size):
                    draws = ReplayDraws(self.seed, rows.device)
                    schedule.play(name, batch, partial(attack.perturb, threat=threat, draws=draws), replay=True)
            else:
                own = [derive_seed(seeds[row], name) for row in rows.tolist()]
                schedule.play(name, rows, partial(attack.run, threat=threat, seeds=own))
        return schedule.outcome()


class _Schedule:
    """B images, and what the attacks of a schedule have done to them so far."""

    def __init__(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._oracle, self._images, self._labels = oracle, images, labels
        self._adversarial = images.clone()
        self._by: list[str | None] = [None] * len(images)

    def standing(self) -> torch.Tensor:
        """int64 (n,): images that no attack has fooled."""
        import torch

        rows = [row for row, name in enumerate(self._by) if name is None]
        return torch.tensor(rows, dtype=torch.int64, device=self._images.device)

    def play(self, name: str, rows: torch.Tensor, attack: Callable[..., Outcome], *, replay: bool = False) -> None:
        """Let an attack at the images of `rows`. In a replay what it says it fooled is asked about once more, in one batch."""
        if not len(rows):
            return
        part = self._oracle.part(rows, as_given=replay)
        outcome = attack(part, self._images[rows], self._labels[rows])
        fooled = outcome.fooled
        if replay:
            fooled = fooled & _wrong(part, outcome.adversarial, self._labels[rows])
        self._oracle.add(part, rows)
        self._adversarial[rows] = outcome.adversarial
        for row in rows[fooled].tolist():
            self._by[row] = name

    def outcome(self) -> Outcome:
        import torch

        fooled = torch.tensor([name is not None for name in self._by], dtype=torch.bool, device=self._images.device)
        return Outcome(self._adversarial, fooled, tuple(self._by))


def _wrong(oracle: Oracle, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    import torch

    return oracle.logits(images, torch.arange(len(images), device=images.device)).argmax(1) != labels
