"""Things in front of the lens: opaque square blocks, still or gliding.

The side of a block is normally distributed about a mean, as in ROVA (arXiv 2603.10652, public engine), but measured in
fractions of the shorter side, and a block keeps its identity through the clip instead of being drawn anew per frame.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption

_COVERAGE = Parameter(lambda s: 0.5 * s, 0, 0.9)
_SIDE = Parameter(lambda s: 0.25, 0.05, 1)
_SHADE = Parameter(lambda s: 24, 0, 255)
_BATCH = 16


@corruption("occlusion", coverage=_COVERAGE, side=_SIDE, shade=_SHADE)
def blocks_static(frames: np.ndarray, rng: np.random.Generator, *, coverage: float, side: float, shade: float) -> None:
    """Blocks that stay where they are and together hide the fraction `coverage` of every frame."""
    _occlude(frames, rng, coverage, side, shade, speed=0.0)


@corruption("occlusion", coverage=_COVERAGE, side=_SIDE, shade=_SHADE, speed=Parameter(lambda s: 0.04, 0, 1))
def blocks_dynamic(
    frames: np.ndarray, rng: np.random.Generator, *, coverage: float, side: float, shade: float, speed: float
) -> None:
    """Blocks that glide to and fro inside the frame; `coverage` holds for the first frame and about for the others.

    `speed` is the largest, as a fraction of the frame's width or height per frame; the middle one is half of it.
    """
    _occlude(frames, rng, coverage, side, shade, speed)


def _occlude(
    frames: np.ndarray, rng: np.random.Generator, coverage: float, side: float, shade: float, speed: float
) -> None:
    count, height, width = frames.shape[:3]
    covered = np.zeros((height, width), np.uint8)
    blocks = _blocks(rng, count, height, width, side, speed)
    while cv2.countNonZero(covered) < coverage * covered.size:
        pixels, corners = next(blocks)
        _fill(covered, corners[0], pixels, 1)
        for frame, corner in zip(frames, corners, strict=True):
            _fill(frame, corner, pixels, (shade,) * 3)


def _blocks(
    rng: np.random.Generator, count: int, height: int, width: int, side: float, speed: float
) -> Iterator[tuple[int, list[list[int]]]]:
    """Endless blocks: the side in pixels, and the (x, y) of the upper left corner in each of `count` frames.

    The path is uniform at its start, then a slow cosine along each axis: it stays inside and has no kinks.
    """
    time = np.arange(count)[:, None]
    while True:
        sides = rng.normal(side, 0.25 * side, _BATCH).clip(0.5 * side, 1.5 * side) * min(height, width)
        pixels = np.rint(sides).clip(1, min(height, width)).astype(int)
        phase = np.arccos(rng.uniform(-1, 1, (_BATCH, 1, 2))) * rng.choice((-1, 1), (_BATCH, 1, 2))
        angular_speed = 2 * speed * rng.uniform(0.3, 1, (_BATCH, 1, 2))
        position = 0.5 - 0.5 * np.cos(phase + angular_speed * time)
        room = np.array([width, height]) - pixels[:, None, None]
        yield from zip(pixels.tolist(), np.rint(position * room).astype(int).tolist(), strict=True)


def _fill(image: np.ndarray, corner: list[int], side: int, value: float | tuple[float, ...]) -> None:
    x, y = corner
    cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), value, thickness=cv2.FILLED)
