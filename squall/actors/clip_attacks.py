"""Attacks on held-out clips by all attackers: processes that are each in the middle of several, and a store that loses none.

    run = attack_clips(assaults, clips, positions, labels, pool.client("attack"), {}, ClipAttackersConfig(),
                       folder / "attacks.sqlite", run_id=run_id, victim_hash=digest)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from squall.actors.clip_attack_examples import Examples
from squall.actors.clip_attack_pool import ClipAttackersConfig, ClipAttackPool
from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attack_tasks import (
    Assault,
    ClipTask,
    HeldOut,
    Row,
    Struck,
    Victims,
    attack_purpose,
    transfer_purpose,
)
from squall.actors.query_ledger import call_key
from squall.actors.supervisor import Change
from squall.actors.task_pool import Failed
from squall.actors.victim_client import VictimUnavailable
from squall.platform.errors import DataError
from squall.platform.video_attack_card import VIDEO_ATTACKS

if TYPE_CHECKING:
    from squall.actors.victim_client import VictimClient
    from squall.platform.report.video_attack_examples import AttackedClip

__all__ = ["Assault", "ClipAttackRun", "ClipAttackersConfig", "Step", "abandoned", "attack_clips", "purposes"]

ASKED_AT_ONCE = 64
"""Clean clips that another victim is shown before their classes are stored."""
NAMED = 5
"""Clips that a sentence names."""
Planned = Mapping[str, tuple[Assault, int]]
"""By key: an assault, and the number of the clip that it attacks."""


@dataclass(frozen=True)
class Step:
    """One attack on one clip came to its end."""

    done: int
    """How many have, those of earlier runs among them."""
    total: int
    row: Row | None
    """None where it is given up."""
    failed: Failed | None
    """Why it is."""
    changes: Sequence[Change]
    """Processes that died, restarted or were given up meanwhile."""


@dataclass(frozen=True)
class ClipAttackRun:
    """All that came of the attacks."""

    table: pa.Table
    """As `VIDEO_ATTACKS`, in the order of assaults and positions; what is lost has no row."""
    lost: tuple[str, ...]
    """What could not be done, a sentence each."""
    examples: tuple[AttackedClip, ...]
    """Of each attack, as many as `ClipAttackersConfig.examples` says."""
    retries: Mapping[str, int]
    """Attacks tried again, by reason."""


def attack_clips(assaults: Sequence[Assault], clips: np.ndarray, positions: Sequence[int], labels: Sequence[int],
                 victim: VictimClient, others: Mapping[str, VictimClient], config: ClipAttackersConfig, store: Path,
                 on_done: Callable[[Step], Any] = lambda step: None, *, run_id: str, victim_hash: str, seed: int = 0,
                 logs: Path | None = None) -> ClipAttackRun:
    """Attack every clip by every assault, and show what fools to the other victims; what the store has is not done again.

    Args:
        clips: uint8 (N, T, H, W, 3), which the victim classifies correctly.
        positions: of the clips among the held-out ones, ascending; draws follow from them.
        victim: asked under the purposes of the assaults.
        others: by name; asked under `transfer_purpose`, about the clean clips too, once.
        store: file of finished attacks, which belongs to the run.
        run_id: names the processes.
        victim_hash: of the models of all victims; under another one nothing that the store has counts.
        seed: of the distorted pixels, which are the same for all assaults on a clip.
        logs: folder that gets what the processes print.

    Raises:
        ConfigError: as of `Control.run` and `load_attacker`; nothing of this assault can be done.
        SquallError: a process could not start, or a victim's model failed.
    """
    held_out = HeldOut(clips, tuple(positions), tuple(labels), seed)
    planned = _planned(assaults, held_out, (victim_hash, *sorted(others)))
    with closing(AttackStore(store)) as book:
        rows = {key: row for key, row in book.rows().items() if key in planned}
        clean, unseen = _clean_classes(others, held_out, victim_hash, book)
        examples = Examples(config.examples, book, planned)
        failed: dict[str, Failed] = {}
        pool = ClipAttackPool(config, held_out, Victims(victim, others, clean), run_id, logs)
        with closing(_results(pool, planned, set(rows), examples)) as results:
            for key, result in results:
                if isinstance(result, Failed):
                    failed[key] = result
                else:
                    book.put(key, result.row, result.kept)
                    rows[key] = result.row
                    if result.kept is not None:
                        examples.stored(key)
                on_done(Step(len(rows) + len(failed), len(planned), rows.get(key), failed.get(key), pool.take_changes()))
        return ClipAttackRun(_table(planned, rows, assaults), (*_given_up(planned, failed, held_out), *unseen,
                                                               *_unshown(rows, clean)),
                             examples.read(rows, held_out, victim.classes), dict(pool.retries))


def purposes(assaults: Sequence[Assault], others: Sequence[str]) -> list[str]:
    """All purposes under which a run's queries are in the ledger, for `VictimPool.tally`."""
    return [*(assault.purpose for assault in assaults), *map(transfer_purpose, others)]


def abandoned(table: pa.Table, answered: Mapping[str, int]) -> dict[str, int]:
    """Queries of attacks that were broken off, and begun again or given up, by purpose where there are any.

    `answered` is what the ledger has by the purposes of assaults; rows count the attempts that came to their end alone.
    """
    spent: Counter[str] = Counter()
    for row in table.select(["attack", "seed", "queries", "removal_queries"]).to_pylist():
        spent[attack_purpose(row["attack"], row["seed"])] += row["queries"] + row["removal_queries"]
    return {purpose: more for purpose, count in answered.items() if (more := count - spent[purpose])}


def _planned(assaults: Sequence[Assault], held_out: HeldOut, victims: Sequence[str]) -> Planned:
    """All attacks, clip by clip, so that a run that is broken off has attacked the same clips by all."""
    settings = [(assault, assault.settings) for assault in assaults]
    return {call_key(victims[0], [*victims[1:]], [own, held_out.seed, int(held_out.positions[number]),
                                                  int(held_out.labels[number])], _hash(clip)): (assault, number)
            for number, clip in enumerate(held_out.clips) for assault, own in settings}


def _results(pool: ClipAttackPool, planned: Planned, done: Collection[str], examples: Examples
             ) -> Generator[tuple[str, Struck | Failed], None, None]:
    """What comes of the attacks that are not done yet, by key; there are no processes where all are."""
    todo = [(key, *attack) for key, attack in planned.items() if key not in done]
    if not todo:
        return
    try:
        pool.start()
        yield from pool.run((key, ClipTask(assault, number, examples.wants(key))) for key, assault, number in todo)
    finally:
        pool.stop()


def _clean_classes(others: Mapping[str, VictimClient], held_out: HeldOut, victim_hash: str, store: AttackStore
                   ) -> tuple[dict[str, list[int]], list[str]]:
    """The class that each of the other victims gives every clean clip, and a sentence for each that could not be asked."""
    known, found, lost = store.clean(), {}, []
    hashes = [_hash(clip) for clip in held_out.clips] if others else []
    for name, other in others.items():
        keys = [call_key(victim_hash, name, None, one) for one in hashes]
        new = [number for number, key in enumerate(keys) if key not in known]
        ask = other.for_purpose(transfer_purpose(name)).ask
        try:
            for first in range(0, len(new), ASKED_AT_ONCE):
                some = new[first:first + ASKED_AT_ONCE]
                classes = ask(np.stack([held_out.clips[number] for number in some])).argmax(1).tolist()
                store.put_clean([(keys[number], answer) for number, answer in zip(some, classes, strict=True)])
        except (VictimUnavailable, DataError) as error:
            lost.append(f"transfer to {name} was not measured: {error}")
            continue
        known = store.clean()
        found[name] = [known[key] for key in keys]
    return found, lost


def _table(planned: Planned, rows: Mapping[str, Row], assaults: Sequence[Assault]) -> pa.Table:
    places = {id(assault): place for place, assault in enumerate(assaults)}
    order = sorted((places[id(assault)], number, key) for key, (assault, number) in planned.items() if key in rows)
    return pa.Table.from_pylist([rows[key] for *_, key in order], schema=VIDEO_ATTACKS)


def _given_up(planned: Planned, failed: Mapping[str, Failed], held_out: HeldOut) -> Iterator[str]:
    """A sentence for each assault and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in (key for key in planned if key in failed):
        groups.setdefault((planned[key][0].purpose, failed[key].reason), []).append(key)
    for keys in groups.values():
        assault, positions = planned[keys[0]][0], [held_out.positions[planned[key][1]] for key in keys]
        named = ", ".join(map(str, positions[:NAMED])) + (", ..." if len(positions) > NAMED else "")
        yield (f"{assault.name}, seed {assault.seed}: {len(keys)} of {len(held_out.clips)} clips could not be attacked "
               f"({named}): {failed[keys[0]].message}")


def _unshown(rows: Mapping[str, Row], clean: Mapping[str, Sequence[int]]) -> Iterator[str]:
    for name in clean:
        missing = sum(row["fooled"] and name not in row["seen_by"] for row in rows.values())
        if missing:
            yield f"transfer to {name}: {missing} clips that fooled were not shown, because it gave no answer"


def _hash(clip: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(clip), digest_size=16).hexdigest()
