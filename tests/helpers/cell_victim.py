"""A victim that looks at one cell of any clip, and one that can be sent away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from squall.actors.victim_client import VictimUnavailable


def cell_victim(clips: np.ndarray) -> np.ndarray:
    """Class 0 while row 1, column 2 of frames 2 and 3 is as smooth as in `noise_clip`s: cells of 2 frames and 8 pixels."""
    rough = clips[:, 2:4, 8:16, 16:24].astype(float).std((1, 2, 3, 4))
    label = 1 / (1 + np.exp((rough - 60) / 8))
    return np.stack([label, 1 - label], 1)


@dataclass(frozen=True)
class SentAway:
    """Another victim, which cannot be reached while there is a file ``away``."""

    ask: Callable[[np.ndarray], np.ndarray]
    folder: Path

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        if (self.folder / "away").exists():
            raise VictimUnavailable("the victim is away")
        return self.ask(clips)
