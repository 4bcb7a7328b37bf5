"""A victim in this process, with the interface and the accounting of a pool, for runs on one machine."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squall.actors.victim_config import VictimPoolConfig
from squall.actors.victim_core import PROBE, CountedModel, Question, Request
from squall.actors.victim_ledger import Tally, VictimLedger
from squall.actors.victim_sources import VictimSource

if TYPE_CHECKING:
    from squall.platform.classifiers import Clips


@dataclass(frozen=True)
class LocalVictim:
    """Asks a model in this process. It cannot be pickled, and takes one thread at a time."""

    model: CountedModel
    classes: tuple[str, ...]
    max_batch: int
    purpose: str
    """Under which its clips are counted."""

    def ask(self, clips: Clips) -> np.ndarray:
        """See `squall.actors.victim_core.Victim`; it is always available."""
        request = Request(uuid.uuid4().hex, self.purpose)
        questions = [Question(request.key(row), self.purpose, 0, clip) for row, clip in enumerate(clips)]
        rows = [row for start in range(0, len(questions), self.max_batch)
                for row in self.model.answer(questions[start:start + self.max_batch])]
        return np.array(rows, np.float32).reshape(len(questions), len(self.classes))

    def for_purpose(self, purpose: str) -> LocalVictim:
        """The same victim, asked for something else."""
        return replace(self, purpose=purpose)


class LocalPool:
    """`squall.actors.victim_pool.VictimPool` without Ray; of its configuration label_only, gpus and asking.max_batch count."""

    def __init__(self, config: VictimPoolConfig, source: VictimSource, ledger: Path, *, name: str = "victim") -> None:
        """As of `VictimPool`."""
        self._config, self._source, self._name, self._counts = config, source, name, ledger.parent / f"{name}-passes"
        self._books = VictimLedger(ledger, self._counts)
        self._model: CountedModel | None = None

    def start(self) -> None:
        """Open the model and try it with a clip of noise. Raises ConfigError or DataError where that fails."""
        self._books.settle()  # what an earlier run was killed over
        self._model = CountedModel(self._source.open("cuda" if self._config.gpus else "cpu"), self._name, self._counts,
                                   self._books.enter, self._config.label_only)
        self._model.answer([self._model.probe()])

    def client(self, purpose: str) -> LocalVictim:
        """Whoever has it may ask; what it asks is counted under `purpose`. Only between `start` and `stop`."""
        assert self._model is not None
        return LocalVictim(self._model, self._source.classes, self._config.asking.max_batch, purpose)

    def tally(self, purposes: Sequence[str] = ()) -> Tally:
        """What the model has done so far."""
        return self._books.tally((PROBE, *purposes))

    def stop(self) -> None:
        """Nothing runs on; what the model has done is in the ledger."""
        self._model = None
