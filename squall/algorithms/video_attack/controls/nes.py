"""NES on the whole grid: what gradient estimation does without an agent that chooses frames or patches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.linf import NesControl, NesWalk
from squall.algorithms.video_attack.controls.search import Search


class Nes(NesControl):
    """Every cell moves at every step."""

    kind: ClassVar[str] = "nes"

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        walk = NesWalk(search, self, target, margin, rng)
        everywhere = np.ones(walk.field.shape[:3], bool)
        while True:
            walk.step(everywhere)
