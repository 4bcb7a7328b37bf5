"""ROVA's memory of difficult questions (arXiv 2603.10652, section 3, algorithm 2), as a state machine without clips or Ray.

It holds what is needed to make a corrupted clip again, never the clip. An entry is deferred once; every recheck ends in
*promoted* (trained on and out), *dropped* (easy by now, out), *kept*, or *evicted* (looked at `max_rechecks` times in vain).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import Field

from squall.platform.config import Config
from squall.platform.errors import SquallError


class MemoryConfig(Config):
    """How long difficult questions are put off, and how many."""

    size: int = Field(1000, ge=0)
    """Most questions that wait; 0 keeps none, and difficult ones are left out for good."""
    recheck_every_steps: int = Field(50, ge=1)
    """T_re: every so many steps all that wait are looked at again; when the memory is full, those that never were."""
    max_rechecks: int = Field(3, ge=1)
    """K_max: a question that is still difficult after so many rechecks is given up."""


class Fate(StrEnum):
    """How a recheck ended."""

    PROMOTED = "promoted"
    DROPPED = "dropped"
    KEPT = "kept"
    EVICTED = "evicted"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Deferred:
    """A question that waits: by which sample and corruption it is asked again, and what is known of it."""

    sample_id: str
    epoch: int
    corruption: str
    """The corruption in one line, as `parse_spec` reads it."""
    since_step: int
    rechecks: int = 0
    """k: how often it was looked at again."""
    confidence: float = 0.0
    """Of the last verdict; logged, and never a reason to keep or evict (as published)."""

    @property
    def key(self) -> str:
        """What names it: a question of one epoch."""
        return f"{self.sample_id}@{self.epoch}"


class DifficultyMemory:
    """Entries by key, in the order in which they came. `counts` has every event since the last `take_counts`."""

    def __init__(self, config: MemoryConfig, entries: Sequence[Deferred] = ()) -> None:
        self._config = config
        self._entries = {entry.key: entry for entry in entries}
        self._under_way: set[str] = set()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Deferred:
        return self._entries[key]

    def __iter__(self) -> Iterator[Deferred]:
        return iter(self._entries.values())

    def defer(self, entry: Deferred) -> None:
        """Take in a difficult question. A full memory gives up the one looked at most often, the oldest of those."""
        self._counts["deferred"] += 1
        if len(self._entries) >= self._config.size and entry.key not in self._entries:
            waiting = [other for other in self._entries.values() if other.key not in self._under_way]
            self._counts["overflowed"] += 1
            if not waiting:
                return
            del self._entries[max(waiting, key=lambda other: other.rechecks).key]  # max keeps the first among equals
        self._entries[entry.key] = entry

    def take_due(self, step: int) -> list[Deferred]:
        """What is to be looked at again after `step` steps, in order; what is under way is not handed out twice."""
        full, regular = len(self._entries) >= self._config.size, step % self._config.recheck_every_steps == 0
        due = [entry for key, entry in self._entries.items()
               if key not in self._under_way and (regular or (full and not entry.rechecks))]
        self._under_way.update(entry.key for entry in due)
        return due

    def resume(self, keys: Sequence[str]) -> None:
        """Say which entries a run that stopped had under way; they will be looked at first."""
        self._under_way.update(keys)

    def settle(self, key: str, fate: Fate, confidence: float = 0.0) -> Fate:
        """Say how the recheck of an entry ended; returns what became of it.

        `KEPT` turns into `EVICTED` at the last recheck. `LOST`, when nothing was found out, is no recheck: the entry stays.

        Raises:
            ValueError: the entry is not under way.
        """
        if key not in self._under_way:
            raise ValueError(f"{key} is not being looked at again")
        self._under_way.remove(key)
        if fate is not Fate.LOST:
            seen = replace(self._entries[key], rechecks=self._entries[key].rechecks + 1, confidence=confidence)
            if fate is Fate.KEPT and seen.rechecks >= self._config.max_rechecks:
                fate = Fate.EVICTED
            self._entries[key] = seen
        if fate in (Fate.PROMOTED, Fate.DROPPED, Fate.EVICTED):
            del self._entries[key]
        self._counts[fate] += 1
        return fate

    def give_up(self, key: str) -> None:
        """Take out an entry under way that can never be asked again, such as one whose file is gone."""
        self._under_way.remove(key)
        del self._entries[key]
        self._counts["given_up"] += 1

    def take_counts(self) -> Counter[str]:
        """Events since this was last asked, by name."""
        counts, self._counts = self._counts, Counter()
        return counts

    def state(self) -> list[dict[str, Any]]:
        """Every entry, as JSON."""
        return [asdict(entry) for entry in self._entries.values()]

    @classmethod
    def from_state(cls, config: MemoryConfig, state: Sequence[Mapping[str, Any]], where: str) -> DifficultyMemory:
        """The memory that `state` described.

        Raises:
            SquallError: an entry is not one that `state` writes, or there are more than fit; names `where` it was read.
        """
        entries = [_entry(values, f"{where}: entry {number} of the difficulty memory") for number, values in enumerate(state)]
        if len(entries) > config.size:
            raise SquallError(f"{where}: {len(entries)} entries in the difficulty memory, and difficulty.memory.size is "
                              f"{config.size}; set it to what the run began with")
        return cls(config, entries)


_TYPES = {"sample_id": str, "epoch": int, "corruption": str, "since_step": int, "rechecks": int, "confidence": (int, float)}


def _entry(values: Any, where: str) -> Deferred:
    if not isinstance(values, Mapping) or values.keys() != _TYPES.keys():
        raise SquallError(f"{where} is damaged: expected the keys {', '.join(_TYPES)}, got {str(values)[:80]!r}")
    for name, kind in _TYPES.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise SquallError(f"{where} is damaged: {name} = {values[name]!r}")
    return Deferred(**values)
