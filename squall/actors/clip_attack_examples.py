"""Which attacked clips are kept: of each attack the first, in the order of clips, that its first seed fooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attack_tasks import Assault, HeldOut, Row

if TYPE_CHECKING:
    from squall.platform.report.video_attack_examples import AttackedClip


class Examples:
    """The attacked clips in a store; never more than one too many for each attack."""

    def __init__(self, limit: int, store: AttackStore, keys: Mapping[str, tuple[Assault, int]]) -> None:
        """`keys` are those of all attacks of the run, with the number of the clip."""
        self._limit, self._store, self._keys = limit, store, keys
        first: dict[str, int] = {}
        for assault, _ in keys.values():
            first.setdefault(assault.name, assault.seed)
        self._kept: dict[str, list[str]] = {name: [] for name in first}
        self._first = first
        for key in store.kept_keys() & keys.keys():
            self._add(key)

    def wants(self, key: str) -> bool:
        """Whether the clip of an attack is to be kept, if it fools."""
        assault, number = self._keys[key]
        kept = self._kept[assault.name]
        return self._first[assault.name] == assault.seed and (
            len(kept) < self._limit or (self._limit > 0 and number < self._number(kept[-1])))

    def stored(self, key: str) -> None:
        """The store has another one."""
        self._add(key)

    def read(self, rows: Mapping[str, Row], held_out: HeldOut, classes: Sequence[str]) -> tuple[AttackedClip, ...]:
        """The clips, by attack and clip; `rows` are those of all attacks that are done, by key."""
        from squall.platform.report.video_attack_examples import AttackedClip

        found = []
        for key in (key for kept in self._kept.values() for key in kept):
            assault, number = self._keys[key]
            clip, row = held_out.clips[number], rows[key]
            kept = self._store.kept(key, clip.shape, assault.attack.grid(*clip.shape[:3]).shape)
            found.append(AttackedClip(
                clip, kept.adversarial, kept.occupancy, assault.attack.block, assault.attack.cell, classes[row["label"]],
                classes[row["prediction"]], assault.name, assault.seed, row["clip"], row["queries"],
                tuple(zip(row["trace_queries"], row["trace_p"], strict=True))))
        return tuple(found)

    def _add(self, key: str) -> None:
        kept = self._kept[self._keys[key][0].name]
        kept.append(key)
        kept.sort(key=self._number)
        for surplus in kept[self._limit:]:
            self._store.drop_kept(surplus)
        del kept[self._limit:]

    def _number(self, key: str) -> int:
        return self._keys[key][1]
