"""Attacked clips of a run: what is kept of them in its directory, and how the page shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from squall.platform.report.attack_examples import amplified
from squall.platform.report.images import PIXEL_ART_SIDE, animate
from squall.platform.runs import to_json
from squall.platform.video import replacing
from squall.platform.video_attack_card import EXAMPLES_FOLDER

CLIPS_FILE = "clips.safetensors"
FPS = 8.0
"""Frames per second at which the page plays clips, whatever they were recorded at."""
MOST_CLIPS, MOST_FRAMES, MOST_SIDE = 24, 16, 160
"""On the page, where pictures are small; a run directory may keep more."""
ALL_BYTES, CLIP_BYTES = 3_200_000, 250_000
"""Of the pictures of all clips, and of the moving one of a clip: the more there are, the more they are compressed, and where
that is not enough, as with noise, fewer clips are shown."""
LINE, LINE_SIDE = (255, 214, 0), 100
"""Colour of lines around cells, and the side of a clip for which they are one pixel wide."""
_PIXELS = ("clean", "adversarial", "occupancy")


@dataclass(frozen=True, slots=True)
class AttackedClip:
    """A clip, and what an attack made of it."""

    clean: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    adversarial: np.ndarray
    """The same shape."""
    occupancy: np.ndarray | None
    """int8 (blocks, rows, columns): the level of distortion in every cell; None for an attack that knows no cells."""
    block: int
    """Frames that a cell spans."""
    cell: int
    """Pixels of its side."""
    label: str
    """Name of the right class."""
    prediction: str
    """Name of the class that the victim gives the attacked clip; equal to `label` where the clip stands."""
    attack: str
    seed: int
    clip: int
    """Position in the held-out clips."""
    queries: int
    """Until the flip, or until the attack gave up."""
    trace: tuple[tuple[int, float], ...] = ()
    """Number of each query, from 1, and the label's probability then."""

    @property
    def fooled(self) -> bool:
        return self.prediction != self.label


def write_clips(folder: Path, clips: Sequence[AttackedClip]) -> None:
    """Keep clips in a run directory, in place of those that were kept before; without any there is no file."""
    from safetensors.numpy import save_file

    path = folder / EXAMPLES_FOLDER / CLIPS_FILE
    if not clips:
        path.unlink(missing_ok=True)
        return
    pixels = {f"{number}/{name}": np.ascontiguousarray(values) for number, clip in enumerate(clips)
              for name in _PIXELS if (values := getattr(clip, name)) is not None}
    words = [{field.name: getattr(clip, field.name) for field in fields(clip) if field.name not in _PIXELS} for clip in clips]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(pixels, temporary, {"clips": to_json(words)})


def read_clips(folder: Path) -> list[AttackedClip]:
    """What a run directory keeps; none where the file is gone or damaged, since they are pictures alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / EXAMPLES_FOLDER / CLIPS_FILE, "numpy") as file:
            names = set(file.keys())
            return [_clip(words, {name: file.get_tensor(key) if (key := f"{number}/{name}") in names else None
                                  for name in _PIXELS}) for number, words in enumerate(json.loads(file.metadata()["clips"]))]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return []


def _clip(words: dict[str, object], pixels: dict[str, np.ndarray | None]) -> AttackedClip:
    trace = tuple((int(query), float(p)) for query, p in words.pop("trace"))
    return AttackedClip(**pixels, **words, trace=trace)


def clip_cards(clips: Sequence[AttackedClip]) -> list[dict[str, Any]]:
    """What the template draws of the first clips: `MOST_CLIPS`, or those for which there is room."""
    cards: list[dict[str, Any]] = []
    wanted, room = clips[:MOST_CLIPS], ALL_BYTES
    for place, clip in enumerate(wanted):
        if room > 0:
            cards.append(_card(clip, min(CLIP_BYTES, room // (len(wanted) - place))))
            room -= len(cards[-1]["clip"].moving) + len(cards[-1]["clip"].still)
    return cards


def _card(clip: AttackedClip, most_bytes: int) -> dict[str, Any]:
    shown, factor = _shown(clip)
    frames, gap = beside(shown)
    most = int(np.abs(shown[1].astype(np.int16) - shown[0]).sum((1, 2, 3)).argmax())
    stride = -(-len(clip.clean) // MOST_FRAMES)
    cells = None if clip.occupancy is None else (int((clip.occupancy > 0).sum()), clip.occupancy.size)
    return {"one": clip, "gap": round(100 * gap / frames.shape[2], 2),
            "clip": animate(frames, FPS / stride, most_bytes, side=max(shown[0].shape[1:3]), still=most),
            "captions": [("clean", clip.label), ("attacked", clip.prediction), (f"change × {factor}", "")],
            "blocks": block_paths(clip.occupancy), "spark": sparkline(clip.trace), "cells": cells}


def _shown(clip: AttackedClip) -> tuple[list[np.ndarray], int]:
    """Clean, attacked, and the change with its cells, in the size and with the frames of the page; and the change's factor."""
    clean, adversarial = (frames.astype(np.float32) / 255 for frames in (clip.clean, clip.adversarial))
    difference, factor = amplified(clean, adversarial)
    scale = max(1, PIXEL_ART_SIDE // max(clip.clean.shape[1:3]))
    shown = [frames.repeat(scale, 1).repeat(scale, 2) for frames in (clip.clean, clip.adversarial, difference)]
    if clip.occupancy is not None:
        draw_cells(shown[2], clip.occupancy, clip.block, clip.cell * scale)
    stride = -(-len(clip.clean) // MOST_FRAMES)
    return [reduced(frames[::stride]) for frames in shown], factor


def reduced(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) with sides of at most `MOST_SIDE`."""
    _, height, width, _ = frames.shape
    scale = MOST_SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    return frames if scale >= 1 else np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def beside(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """Clips uint8 (T, H, W, 3) as one (T, H, all widths and gaps, 4), since pictures of their own would not play in step, and
    the width of the transparent gap between them."""
    frames, height, width, _ = clips[0].shape
    gap = np.zeros((frames, height, max(2, width // 20), 4), np.uint8)
    opaque = [np.concatenate([clip, np.full((*clip.shape[:3], 1), 255, np.uint8)], -1) for clip in clips]
    return np.concatenate([part for clip in opaque for part in (clip, gap)][:-1], axis=2), gap.shape[2]


def draw_cells(frames: np.ndarray, occupancy: np.ndarray, block: int, side: int) -> None:
    """Draw a line into frames uint8 (T, H, W, 3), around every cell of so many pixels that is on in their block."""
    wide = max(1, max(frames.shape[1:3]) // LINE_SIDE)
    for at, row, column in np.argwhere(occupancy > 0):
        here = frames[at * block:(at + 1) * block, row * side:(row + 1) * side, column * side:(column + 1) * side]
        inside = here[:, wide:-wide, wide:-wide].copy()
        here[:] = LINE
        here[:, wide:-wide, wide:-wide] = inside


def block_paths(occupancy: np.ndarray | None) -> tuple[tuple[int, int, str], ...]:
    """(columns, rows, squares of one unit that are on) of each block; none for an attack that knows no cells."""
    if occupancy is None:
        return ()
    return tuple((block.shape[1], block.shape[0], "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(block > 0)))
                 for block in occupancy)


def sparkline(trace: Sequence[tuple[int, float]]) -> str:
    """Path of the label's probability over the queries, in a field of 100 x 100; empty for fewer than two."""
    if len(trace) < 2:
        return ""
    first, last = trace[0][0], trace[-1][0]
    points = (f"{100 * (query - first) / max(last - first, 1):.1f} {100 * (1 - p):.1f}" for query, p in trace)
    return "M" + "L".join(points)
