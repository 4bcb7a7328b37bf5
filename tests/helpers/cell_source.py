"""The victim of `cell_victim` as a model of a pool: it notes every batch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cell_victim import cell_victim

from squall.platform.classifier_kinds import checked

CLASSES = ("smooth", "rough")


@dataclass(frozen=True)
class CellSource:
    """Its folder has the notes."""

    folder: Path
    label: str = "cell"
    classes: tuple[str, ...] = CLASSES

    def open(self, device: str) -> CellClassifier:
        return CellClassifier(self.folder)

    @property
    def batches(self) -> list[int]:
        """Clips of every batch that went into the models of all processes, the dead ones too."""
        return [int(line) for file in self.folder.glob("*.passes") for line in file.read_text().split()]

    def wait(self, clips: int) -> None:
        """Until the models have been given so many clips."""
        deadline = time.monotonic() + 60
        while sum(self.batches) < clips:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@dataclass
class CellClassifier:
    folder: Path
    classes: tuple[str, ...] = CLASSES
    frame_count: int | None = 8

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        with open(self.folder / f"{os.getpid()}.passes", "a") as file:
            file.write(f"{len(clips)}\n")
        return checked(cell_victim(np.stack(clips)).astype(np.float32), len(clips), self.classes, "cell")
