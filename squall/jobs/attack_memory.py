"""What an attack run has asked: a row of the ledger for each image, and the examples in files, so that it goes on where it was.

A chunk's examples are in their file before its rows are in the ledger, and its rows are there all together or not at all. So
what the ledger knows is never asked again, and what a worker did before it died is in neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from squall.actors.attack_tasks import Answers
from squall.actors.query_ledger import Call, QueryLedger, call_key
from squall.algorithms.attacks.base import Threat
from squall.platform.attack_card import CLEAN
from squall.platform.errors import DataError
from squall.platform.image_data import ImageSet
from squall.platform.seeds import derive_seed
from squall.platform.video import replacing

EXAMPLES = "adversarial"
"""Folder of the examples in the run directory."""


@dataclass(frozen=True)
class Targets:
    """The images that are attacked, in chunks that do not depend on the workers."""

    data: ImageSet
    positions: np.ndarray
    """int64 (N,): where each of them stands in the data set."""
    seed: int
    """Of the run."""
    chunk: int
    """Images in a chunk."""

    @cached_property
    def chunks(self) -> tuple[np.ndarray, ...]:
        """Rows of each chunk."""
        rows = np.arange(len(self.positions))
        return tuple(rows[start:start + self.chunk] for start in range(0, len(rows), self.chunk))

    def parts(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Number and rows of each chunk that holds some of the `wanted` images, bool (N,)."""
        for number, chunk in enumerate(self.chunks):
            if len(rows := chunk[wanted[chunk]]):
                yield number, rows

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One for each image, which follows from the run's and from where the image stands."""
        return tuple(derive_seed(self.seed, "image", int(position)) for position in self.positions)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """32 hex digits over the pixels and the label of each image."""
        return tuple(_hash(image.tobytes() + int(label).to_bytes(8, "little"))
                     for image, label in zip(self.data.images, self.data.labels, strict=True))


@dataclass(frozen=True)
class Case:
    """What is asked of a model: about images as they are, under an attack, or about examples of another model."""

    model: str
    """Hash of the model that is asked."""
    attack: str = CLEAN
    """As in `ATTACKS`; of a transfer the name of the attack that made the examples."""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """All settings of the attack, its kind among them; a name has one set of them in a run."""
    threat: Threat | None = None
    source: str | None = None
    """Of a transfer: hash of the model that the examples were made on."""
    together: bool = False
    """Whether results depend on which images stand beside one another."""

    @property
    def title(self) -> str:
        """What an error calls it."""
        if self.threat is None:
            return self.attack
        shown = " on another model's examples" if self.source else ""
        return f"{self.attack}{shown} at {self.threat.norm} {self.threat.epsilon:.4g}"

    @property
    def purpose(self) -> str:
        """Under which its calls are counted."""
        return self.attack if self.source is None else f"transfer:{self.attack}"


class AttackMemory:
    """Reads and writes ledger and examples of a run."""

    def __init__(self, ledger: QueryLedger, folder: Path, targets: Targets) -> None:
        """`folder` is the run directory."""
        self._ledger, self._folder, self._targets = ledger, folder, targets

    def recall(self, case: Case, rows: np.ndarray) -> Answers | None:
        """What was found out before; None unless all of these images were asked about."""
        keys = self._keys(case, rows)
        calls = self._ledger.find_all(keys)
        if len(calls) < len(keys):
            return None
        replies = [json.loads(calls[key].reply) for key in keys]
        columns = {name: np.array([reply[name] for reply in replies]) for name in ("prediction", "l2", "linf")}
        passes = {name: np.array([getattr(calls[key], name) for key in keys]) for name in ("queries", "gradients")}
        return Answers(**columns, **passes, by=tuple(reply["by"] for reply in replies))

    def keep(self, case: Case, chunk: int, rows: np.ndarray, answers: Answers, seconds: float) -> None:
        """Enter what a model said about these images. It is in the files when the call returns."""
        if answers.adversarial is not None:
            self._write(case, chunk, rows, answers.adversarial)
        replies = [json.dumps({"prediction": int(prediction), "by": by, "l2": float(l2), "linf": float(linf)})
                   for prediction, by, l2, linf in zip(answers.prediction, answers.by, answers.l2, answers.linf, strict=True)]
        passes = zip(answers.queries.tolist(), answers.gradients.tolist(), strict=True)
        self._ledger.store_all([
            Call(key, case.model, case.purpose, reply, seconds=seconds / len(rows), queries=queries, gradients=gradients)
            for key, reply, (queries, gradients) in zip(self._keys(case, rows), replies, passes, strict=True)])

    def examples(self, case: Case, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and examples, float32 (n, ...), of a chunk that was attacked.

        Raises:
            DataError: the file is gone or damaged, or holds other images (reason ``damaged_examples``).
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.path(case, chunk)
        try:
            found = load_file(path)
            rows = np.searchsorted(self._targets.positions, found["images"])
            if not np.array_equal(self._targets.positions[rows % len(self._targets.positions)], found["images"]):
                raise KeyError("images of another run")
            return rows, found["adversarial"]
        except (OSError, SafetensorError, KeyError) as error:
            problem = " ".join(str(error).split())[:120]
            raise DataError(f"{path}: the examples cannot be read ({problem}), and the ledger says that they were made; put "
                            "the file back, or start a new run under another name", reason="damaged_examples") from None

    def path(self, case: Case, chunk: int) -> Path:
        """File of a chunk's examples."""
        assert case.threat is not None
        budget = f"{case.attack}-{case.threat.norm}-{case.threat.epsilon:.8g}"
        return self._folder / EXAMPLES / case.model[:12] / budget / f"{chunk:05d}.safetensors"

    def _write(self, case: Case, chunk: int, rows: np.ndarray, examples: np.ndarray) -> None:
        from safetensors.numpy import save_file

        path = self.path(case, chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"model": case.model, "attack": json.dumps(dict(case.settings), sort_keys=True)}
        with replacing(path) as temporary:
            save_file({"adversarial": np.ascontiguousarray(examples), "images": self._targets.positions[rows]}, temporary,
                      metadata)

    def _keys(self, case: Case, rows: np.ndarray) -> list[str]:
        targets = self._targets
        question = {"attack": dict(case.settings), "source": case.source,
                    "threat": None if case.threat is None else case.threat.model_dump(mode="json"),
                    "beside": _hash(repr([targets.hashes[row] for row in rows]).encode()) if case.together else None}
        return [call_key(case.model, question, targets.seeds[row], targets.hashes[row]) for row in rows]


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
