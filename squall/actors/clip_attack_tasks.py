"""One attack on one clip: who attacks, with what draws, and the row that comes of it.

Draws follow from the assault's seed and the clip's position, distorted pixels from the run's seed and the position: all
assaults on a clip distort it alike, and a row is the same whichever process makes it, in whatever order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from squall.actors.victim_client import VictimUnavailable
from squall.actors.victim_core import Victim
from squall.algorithms.video_attack.asking import Ask, checked
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.base import Control
from squall.algorithms.video_attack.measures import measure
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.platform.attacker_files import attackers_hash
from squall.platform.errors import DataError
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    from squall.actors.victim_client import VictimClient

Row = dict[str, Any]
"""By the columns of `VIDEO_ATTACKS`; plain JSON values."""


class Attack(Protocol):
    """A control, or `Learned`."""

    def run(self, ask: Ask, clip: np.ndarray, label: int, config: AttackConfig, seed: int, palette_seed: int | None = None
            ) -> VideoOutcome: ...


@dataclass(frozen=True)
class Assault:
    """An attack with one seed, on all clips: a control, or trained attackers."""

    name: str
    seed: int
    attack: AttackConfig
    control: Control | None = None
    policy: Path | None = None
    """Folder of trained attackers, which all nodes see."""
    greedy: bool = False
    """Attackers take the likeliest options in place of drawn ones."""

    def __post_init__(self) -> None:
        if (self.control is None) == (self.policy is None):
            raise ValueError(f"assault {self.name}: expected a control or the folder of a policy")

    @property
    def purpose(self) -> str:
        """Under which the ledger counts what it asks."""
        return attack_purpose(self.name, self.seed)

    @property
    def settings(self) -> list[Any]:
        """All that its rows depend on beside victim, clip and seed of the pixels, as plain JSON values."""
        control = None if self.control is None else [self.control.kind, self.control.model_dump(mode="json")]
        attackers = None if self.policy is None else [attackers_hash(self.policy), self.greedy]
        return [self.name, self.seed, self.attack.model_dump(mode="json"), control, attackers]


def attack_purpose(name: str, seed: int) -> str:
    """Under which the ledger counts what an attack with one seed asks."""
    return f"attack/{name}/{seed}"


def transfer_purpose(victim: str) -> str:
    """Under which the ledger counts what another victim is shown."""
    return f"transfer/{victim}"


@dataclass(frozen=True)
class ClipTask:
    """An assault on one clip."""

    assault: Assault
    number: int
    """Of the clip among those that the workers hold."""
    keep: bool
    """Bring the attacked clip along, if it fools."""


@dataclass(frozen=True)
class HeldOut:
    """The clips under attack."""

    clips: Sequence[np.ndarray]
    """uint8 (T, H, W, 3) each, or in one array."""
    positions: Sequence[int]
    labels: Sequence[int]
    seed: int
    """Of the distorted pixels."""


@dataclass(frozen=True)
class Victims:
    """Whom a worker asks."""

    target: VictimClient
    others: Mapping[str, VictimClient]
    clean: Mapping[str, Sequence[int]]
    """For each of the others the class that it gives every clean clip."""


@dataclass(frozen=True)
class Kept:
    """What an attack made of a clip."""

    adversarial: np.ndarray
    """uint8 (T, H, W, 3)."""
    occupancy: np.ndarray | None
    """int8 (blocks, rows, columns); None for an attack that knows no cells."""


@dataclass(frozen=True)
class Struck:
    """What came of a task."""

    row: Row
    kept: Kept | None = None
    """If it was to be kept, and fools."""


class Witness:
    """Asks, and remembers what was said of the clip that an attack can end with, which attacks do not tell: one that fooled, of
    the last request in which one did, or else the one with the least probability of the label."""

    def __init__(self, ask: Ask, label: int) -> None:
        self._ask, self._label = ask, label
        self._ends: list[tuple[np.ndarray, np.ndarray]] = []
        self._least = np.inf
        self.first: np.ndarray | None = None
        """The answer about the first clip, float64 (K,)."""
        self.asked = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        rows = checked(self._ask(clips), len(clips))
        self.asked += len(clips)
        if self.first is None:
            self.first = rows[0]
        fooled, nearest = np.flatnonzero(rows.argmax(1) != self._label), rows[:, self._label].argmin()
        if len(fooled):
            self._ends, self._least = [(clips[place], rows[place]) for place in fooled], -np.inf
        elif rows[nearest, self._label] < self._least:
            self._ends, self._least = [(clips[nearest], rows[nearest])], rows[nearest, self._label]
        return rows

    def of(self, clip: np.ndarray) -> np.ndarray | None:
        """What was said of the clip that the attack ends with, float64 (K,); None if it cannot be that."""
        return next((row for end, row in self._ends if np.array_equal(end, clip)), None)


def strike(attack: Attack, task: ClipTask, held_out: HeldOut, victims: Victims) -> Struck:
    """Attack a clip, measure the change, and show what fools to the other victims.

    Raises:
        VictimUnavailable: the victim under attack cannot be reached. An other one that cannot is left out of the row.
        DataError: the victim errs on the clean clip (reason ``nothing_to_attack``), or as of the attack.
    """
    assault, number = task.assault, task.number
    clip, label, position = held_out.clips[number], int(held_out.labels[number]), int(held_out.positions[number])
    witness = Witness(victims.target.for_purpose(assault.purpose).ask, label)
    outcome = attack.run(witness, clip, label, assault.attack, derive_seed(assault.seed, "clip", position),
                         derive_seed(held_out.seed, "palette", position))
    row = {"attack": assault.name, "seed": assault.seed, "clip": position, "label": label,
           **_told(outcome, witness, label, f"clip {position}: {assault.name}"),
           **asdict(measure(clip, outcome.adversarial, assault.attack.grid(*clip.shape[:3]))),
           **(_seen(outcome.adversarial, number, victims) if outcome.fooled else _UNSEEN)}
    return Struck(row, Kept(outcome.adversarial, outcome.occupancy) if task.keep and outcome.fooled else None)


_UNSEEN: Row = {"seen_by": [], "seen_clean": [], "seen_attacked": []}


def _told(outcome: VideoOutcome, witness: Witness, label: int, what: str) -> Row:
    """What the victim said, and at what cost; an attack that tells otherwise is none."""
    final = witness.of(outcome.adversarial)
    assert witness.first is not None
    if witness.first.argmax() != label:
        raise DataError(f"{what}: the victim gives the clean clip class {witness.first.argmax()}, and its label is {label}",
                        reason="nothing_to_attack")
    if final is None or (final.argmax() != label) != outcome.fooled or witness.asked != outcome.total_queries:
        raise DataError(f"{what}: the attack tells of {outcome.total_queries} queries and fooled = {outcome.fooled}, and the "
                        f"victim was asked {witness.asked} times and did not say so", reason="broken_attack")
    return {"prediction": int(final.argmax()), "fooled": outcome.fooled, "queries": outcome.queries,
            "removal_queries": outcome.removal_queries, "p_clean": float(witness.first[label]),
            "p_attacked": float(final[label]), "trace_queries": [number for number, _ in outcome.trace],
            "trace_p": [float(p) for _, p in outcome.trace]}


def _seen(adversarial: np.ndarray, number: int, victims: Victims) -> Row:
    found = {name: answer for name in victims.clean
             if (answer := _class_given(victims.others[name], name, adversarial)) is not None}
    return {"seen_by": list(found), "seen_clean": [int(victims.clean[name][number]) for name in found],
            "seen_attacked": list(found.values())}


def _class_given(other: Victim, name: str, clip: np.ndarray) -> int | None:
    try:
        return int(other.for_purpose(transfer_purpose(name)).ask(clip[None])[0].argmax())
    except (VictimUnavailable, DataError):
        return None
