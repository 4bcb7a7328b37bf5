"""Exactly what victims were asked: every pass of a clip through a model is in the query ledger once, whoever dies.

Two counts are kept apart. Each victim process counts, in a file of its own and before a batch goes in, the clips that it puts
through its model. What it finds goes into the ledger before it is answered, a row a clip, so that a caller that asks again is
told what was found the first time. What was counted and never entered, because the model failed, because its process was
killed, or because somebody else had answered meanwhile, is entered as ``lost``. So ledger and counters agree to the clip.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from squall.actors.query_ledger import Call, QueryLedger

LOST = "lost"
"""Purpose of passes whose outcome nobody was told."""
COUNT_SUFFIX = ".count"


class PassCounter:
    """Clips that one process has put through its model, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self._count = 0
        self.add(0)

    def add(self, clips: int) -> int:
        """Count clips that are about to go in; returns how many went before them."""
        before, self._count = self._count, self._count + clips
        os.pwrite(self._file, f"{self._count:020d}\n".encode(), 0)  # one write: a kill leaves the old or the new number
        return before

@dataclass(frozen=True, slots=True)
class Pass:
    """One clip that has gone through a model, or on which the model failed: then the call's reply is empty."""

    number: int
    """Of all passes of its process, from 0."""
    call: Call


@dataclass(frozen=True, slots=True)
class Tally:
    """Clips that went through a pool's models."""

    begun: int
    """By the processes' own counters."""
    entered: int
    """In the ledger, those that were lost among them; equal to `begun` while nobody is asking and once the pool has stopped."""
    lost: int
    """Of these, the ones of which nobody was told."""
    purposes: Mapping[str, int]
    """What was answered, by what it was asked for."""

    @property
    def answered(self) -> int:
        """Clips that a caller was, or could have been, told about."""
        return self.entered - self.lost


class VictimLedger:
    """The ledger of one pool, to be used by one process."""

    def __init__(self, path: Path, counts: Path) -> None:
        """`counts` is the folder of the processes' own counters. Errors as of `QueryLedger`."""
        self._ledger, self._counts = QueryLedger(path), counts

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Replies to those of these keys that were answered."""
        return {key: call.reply for key, call in self._ledger.find_all(keys).items()}

    def enter(self, passes: Sequence[Pass]) -> None:
        """Note passes of one process; the same ones again change nothing.

        What failed is noted as lost, and so is what another pass has answered before.
        """
        responder = passes[0].call.responder
        if self._ledger.find(_rest_key(responder)) is not None:
            return  # it was taken for dead, and these are among what it was said to have lost
        known = self._ledger.find_all([one.call.key for one in passes])
        self._ledger.store_all([_entry(one, known.get(one.call.key)) for one in passes])

    def settle(self) -> None:
        """Enter what processes counted and did not enter. All of them must be dead; one of a killed run that works on for a
        moment is believed no more, and what it counts until then is entered the next time."""
        for responder, begun in self._begun().items():
            missing, rest = begun - self._ledger.total(responder=responder).queries, _rest_key(responder)
            if missing:
                key = rest if self._ledger.find(rest) is None else f"{rest}/{begun}"
                self._ledger.store(Call(key, responder, LOST, "", queries=missing))

    def counts(self, responder: str) -> bool:
        """Whether the counter of a process can be seen from here."""
        return (self._counts / f"{responder}{COUNT_SUFFIX}").is_file()

    def tally(self, purposes: Sequence[str] = ()) -> Tally:
        """All that the pool's processes have done, and, of what was asked for these purposes, how much."""
        begun = self._begun()
        totals = [self._ledger.total(responder=responder).queries for responder in begun]
        lost = [self._ledger.total(LOST, responder).queries for responder in begun]
        answered = {purpose: sum(self._ledger.total(purpose, responder).queries for responder in begun) for purpose in purposes}
        return Tally(sum(begun.values()), sum(totals), sum(lost), answered)

    def _begun(self) -> dict[str, int]:
        files = sorted(self._counts.glob(f"*{COUNT_SUFFIX}"))
        return {file.name.removesuffix(COUNT_SUFFIX): int(file.read_text() or 0) for file in files}


def _entry(one: Pass, known: Call | None) -> Call:
    call = one.call
    answers = bool(call.reply) and (known is None or (known.responder, known.attempts) == (call.responder, call.attempts))
    return call if answers else replace(call, key=f"{LOST}/{call.responder}/{one.number}", purpose=LOST, reply="")


def _rest_key(responder: str) -> str:
    return f"{LOST}/{responder}"
