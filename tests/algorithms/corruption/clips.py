"""Clips that the corruption tests share, and the hashes of what is rendered from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from squall.algorithms.corruption import KINDS, make_spec, render

DATA = Path(__file__).resolve().parents[2] / "data"
GOLDEN = DATA / "golden_corruptions.json"
SEVERITIES = (0.3, 0.6, 1.0)
FPS = 12.5
EXACT = tuple(sorted(name for name in KINDS if name != "compression"))
"""All but H.264, whose pixels belong to the encoder's build."""


def real_frames() -> np.ndarray:
    """Eight frames of city traffic, without loss: (8, 60, 84, 3), read-only."""
    strip = cv2.cvtColor(cv2.imread(str(DATA / "real_frames.png")), cv2.COLOR_BGR2RGB)
    frames = strip.reshape(8, 60, 84, 3)
    frames.setflags(write=False)
    return frames


def still(count: int, height: int, width: int, grey: int = 60) -> np.ndarray:
    return np.full((count, height, width, 3), grey, np.uint8)


def digests(name: str, one_by_one: bool = False) -> str:
    """A hash for each severity; `one_by_one` renders every frame alone."""
    frames, whole = real_frames(), KINDS[name].rearranges or not one_by_one
    hashes = []
    for seed, severity in enumerate(SEVERITIES):
        spec = make_spec(name, severity, seed)
        pixels = render(frames, spec, fps=FPS) if whole else np.concatenate(
            [render(frames[t : t + 1], spec, fps=FPS, first=t, count=len(frames)) for t in range(len(frames))])
        hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest()[:12])
    return " ".join(hashes)
