"""What a victim does with clips, in whatever process: count them, ask its model, enter what it found, answer."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from squall.actors.query_ledger import Call
from squall.actors.victim_ledger import COUNT_SUFFIX, Pass, PassCounter

if TYPE_CHECKING:
    from squall.platform.classifiers import Clips, VideoClassifier

PROBE = "probe"
"""Purpose of the clip of noise that a model is tried with."""


class Victim(Protocol):
    """Whoever answers about clips: a `LocalVictim` in this process, a `VictimClient` for those of a pool."""

    classes: tuple[str, ...]

    def ask(self, clips: Clips) -> np.ndarray:
        """float32 (n, K), rows sum to 1; of a victim that tells labels alone, 1 at the label.

        Raises:
            DataError: what the model says of a clip is not finite (reason ``bad_output``).
            VictimUnavailable: no model answered in time.
            ConfigError: as of `VideoClassifier.probabilities`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """Some clips that are asked about together."""

    id: str
    purpose: str
    attempt: int = 0

    def key(self, row: int) -> str:
        """Of a clip in the ledger."""
        return f"{self.id}/{row}"


@dataclass(frozen=True, slots=True)
class Question:
    """A clip, and whom its answer is for."""

    key: str
    """The same when it is asked again."""
    purpose: str
    attempt: int
    """From 0."""
    clip: np.ndarray


class CountedModel:
    """A classifier whose every pass is counted, by itself and in the ledger."""

    def __init__(self, classifier: VideoClassifier, name: str, counts: Path, enter: Callable[[Sequence[Pass]], None],
                 label_only: bool = False) -> None:
        """`counts` is the folder of the processes' own counters; `enter` returns when the ledger has the passes."""
        self.responder = f"{name}-{uuid.uuid4().hex[:12]}"
        """This process as the ledger calls it; started anew it is another."""
        self._classifier, self._enter, self._label_only = classifier, enter, label_only
        self._counter = PassCounter(counts / f"{self.responder}{COUNT_SUFFIX}")

    def probe(self) -> Question:
        """A clip of noise, to try the model with; it counts."""
        frames = np.random.default_rng(0).integers(0, 256, (self._classifier.frame_count or 8, 64, 64, 3), np.uint8)
        return Question(f"{PROBE}/{self.responder}", PROBE, 0, frames)

    def answer(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """A row (K,) for each question. Errors as of `VideoClassifier.probabilities`; the passes count then too."""
        first, started = self._counter.add(len(questions)), time.monotonic()
        rows: Sequence[np.ndarray] = ()
        try:
            found = self._classifier.probabilities([question.clip for question in questions])
            rows = one_hot(found) if self._label_only else found
        finally:
            seconds = (time.monotonic() - started) / len(questions)
            replies = [write_row(row) for row in rows] or [""] * len(questions)
            self._enter([Pass(first + place, Call(question.key, self.responder, question.purpose, reply, question.attempt + 1,
                                                  seconds))
                         for place, (question, reply) in enumerate(zip(questions, replies, strict=True))])
        return list(rows)


def one_hot(probabilities: np.ndarray) -> np.ndarray:
    """float32 (n, K) with 1 at each row's largest value, the first of equals."""
    return np.eye(probabilities.shape[1], dtype=np.float32)[probabilities.argmax(axis=1)]


def write_row(row: np.ndarray) -> str:
    """float32 (K,) as text from which `read_row` makes the same numbers."""
    return json.dumps([float(str(value)) for value in row])  # the shortest decimals that are this float32


def read_row(text: str) -> np.ndarray:
    """float32 (K,)."""
    return np.array(json.loads(text), np.float32)
