"""Things in front of the scene: opaque blocks, still or gliding, and drops on the lens.

The side of a block is normally distributed about a mean, as in ROVA (arXiv 2603.10652, public engine), but measured in
fractions of the shorter side, and a block keeps its identity through the clip instead of being drawn anew per frame
(`mask_blocks` does that).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from squall.algorithms.corruption.compositing import take_away
from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_COVERAGE = Parameter(lambda x: 0.7 * x, 0, 0.95)
_SIDE = Parameter(lambda x: 0.1 + 0.2 * x, 0.02, 1)
_DEVIATION = Parameter(lambda x: 0.25, 0, 1)
_SHADE = Parameter(lambda x: 24, 0, 255)
_BATCH = 16
_PLACES = 12


@corruption("occlusion", coverage=_COVERAGE, side=_SIDE, deviation=_DEVIATION, shade=_SHADE)
def blocks_static(frames: np.ndarray, timeline: Timeline, *, coverage: float, side: float, deviation: float,
                  shade: float) -> np.ndarray:
    """Blocks that stay where they are and together hide the fraction `coverage` of every frame.

    `side` is their mean side in shorter sides, `deviation` its relative standard deviation, `shade` their grey level.
    """
    return _occlude(frames, timeline, coverage, side, deviation, shade, speed=0.0)


@corruption("occlusion", coverage=_COVERAGE, side=_SIDE, deviation=_DEVIATION, shade=_SHADE,
            speed=Parameter(lambda x: 0.35, 0, 20))
def blocks_dynamic(frames: np.ndarray, timeline: Timeline, *, coverage: float, side: float, deviation: float, shade: float,
                   speed: float) -> np.ndarray:
    """Blocks that glide to and fro inside the frame; `coverage` holds for the first frame and about for the others.

    `speed` is the largest, in frame widths or heights per second; the middle one is half of it.
    """
    return _occlude(frames, timeline, coverage, side, deviation, shade, speed)


@corruption(
    "occlusion",
    coverage=Parameter(lambda x: 0.7 * x, 0, 0.9),
    size=Parameter(lambda x: 0.05 + 0.09 * x, 0.01, 0.5),
)
def lens_drops(frames: np.ndarray, timeline: Timeline, *, coverage: float, size: float) -> np.ndarray:
    """Water drops on the lens, out of focus: each shows the scene upside down and small, darker to its rim, with a glint.

    They stay where they are and together hide about the fraction `coverage`; `size` is their mean radius in shorter sides.
    """
    height, width = frames.shape[1:3]
    lens = _Lens(height, width)
    rng = timeline.rng()
    while lens.coverage() < coverage:
        luck, squash = rng.random(2)
        radius = max(size * (0.3 + 1.4 * luck**2) * min(height, width), 1.5)
        x, y = lens.free_place(rng.random((_PLACES, 2)) * (width, height), radius)
        lens.add_drop(x, y, radius * (0.85 + 0.3 * squash), radius * (1.15 - 0.3 * squash))
    lens.look_through(frames)
    return np.repeat(lens.cover[None], len(frames), axis=0)


class _Lens:
    """A wet lens: for every pixel how much a drop covers it, and what the drop shows there."""

    _REACH = 0.42
    """How far from itself a drop shows the scene, in shorter sides."""

    def __init__(self, height: int, width: int) -> None:
        self.cover = np.zeros((height, width), np.uint8)
        self._light = np.zeros((height, width), np.uint8)
        self._glint = np.zeros((height, width), np.uint8)
        self._source = np.zeros((height, width, 2), np.int16)
        self._drops: list[tuple[float, float, float]] = []

    def coverage(self) -> float:
        return cv2.countNonZero(self.cover) / self.cover.size

    def free_place(self, places: np.ndarray, radius: float) -> tuple[float, float]:
        """The place (x, y), of some, where a drop overlaps others least: drops that touch would flow together."""
        if not self._drops:
            return tuple(places[0])
        x, y, others = np.array(self._drops).T
        gaps = np.sqrt((places[:, :1] - x) ** 2 + (places[:, 1:] - y) ** 2) - others - radius
        return tuple(places[gaps.min(axis=1).argmax()])

    def add_drop(self, x: float, y: float, half_width: float, half_height: float) -> None:
        """An ellipse about (x, y), over the drops that are there."""
        self._drops.append((x, y, (half_width + half_height) / 2))
        height, width = self.cover.shape
        y0, y1 = max(int(y - half_height), 0), min(int(y + half_height) + 2, height)
        x0, x1 = max(int(x - half_width), 0), min(int(x + half_width) + 2, width)
        v, u = (np.arange(y0, y1)[:, None] - y) / half_height, (np.arange(x0, x1)[None] - x) / half_width
        r2 = u * u + v * v
        edge = ((1 - np.sqrt(r2)) * 4).clip(0, 1)
        shade = (1 - 0.4 * r2 * r2) * (1 - 0.12 * v)
        glint = (1 - 9 * ((u + 0.38) * (u + 0.38) + (v + 0.42) * (v + 0.42))).clip(0, 1)
        reach = self._REACH * min(height, width) * (0.6 + 0.4 * r2)  # bends more towards the rim
        scene_x = _mirrored(np.rint(x - reach * u).astype(int), width)
        scene_y = _mirrored(np.rint(y - reach * v).astype(int), height)
        box, inside = np.s_[y0:y1, x0:x1], edge > 0
        for plane, values in ((self.cover, edge), (self._light, shade.clip(0, 1)), (self._glint, 0.4 * glint * edge)):
            plane[box][inside] = np.rint(255 * values[inside])
        self._source[box][inside] = np.stack(np.broadcast_arrays(scene_x, scene_y), axis=-1)[inside]

    def look_through(self, frames: np.ndarray) -> None:
        """Show frames (n, H, W, 3) through the drops, in place."""
        dry, glint, shown = (cv2.cvtColor(plane, cv2.COLOR_GRAY2RGB) for plane in
                             (cv2.bitwise_not(self.cover), self._glint, cv2.multiply(self.cover, self._light, scale=1 / 255)))
        for frame in frames:
            seen = cv2.remap(cv2.blur(frame, (5, 5)), self._source, None, cv2.INTER_NEAREST)
            cv2.multiply(seen, shown, dst=seen, scale=1 / 255)
            cv2.multiply(frame, dry, dst=frame, scale=1 / 255)
            cv2.add(frame, cv2.add(seen, glint), dst=frame)


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Indices folded back into 0 .. size - 1."""
    period = max(2 * size - 2, 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(index)


def _occlude(frames: np.ndarray, timeline: Timeline, coverage: float, side: float, deviation: float, shade: float,
             speed: float) -> np.ndarray:
    height, width = frames.shape[1:3]
    opacity = np.zeros(frames.shape[:3], np.uint8)
    covered = np.zeros((height, width), np.uint8)  # at time 0
    blocks = _blocks(timeline, height, width, side, deviation, speed)
    while cv2.countNonZero(covered) < coverage * covered.size:
        size, (x, y), corners = next(blocks)
        covered[y : y + size, x : x + size] = 255
        if speed:
            for layer, (x, y) in zip(opacity, corners, strict=True):
                layer[y : y + size, x : x + size] = 255
    if not speed:
        opacity[:] = covered
    take_away(frames, opacity, shade)
    return opacity


def _blocks(timeline: Timeline, height: int, width: int, side: float, deviation: float, speed: float
            ) -> Iterator[tuple[int, list[int], list[list[int]]]]:
    """Endless blocks: the side in pixels, and the (x, y) of the upper left corner at time 0 and in each frame.

    The path is uniform at its start, then a slow cosine along each axis: it stays inside and has no kinks.
    """
    rng = timeline.rng()
    seconds = np.concatenate([[0.0], timeline.seconds])[:, None]
    while True:
        sides = rng.normal(side, deviation * side, _BATCH).clip(0.3 * side, 2 * side) * min(height, width)
        pixels = np.rint(sides).clip(1, min(height, width)).astype(int)
        phase = np.arccos(rng.uniform(-1, 1, (_BATCH, 1, 2))) * rng.choice((-1, 1), (_BATCH, 1, 2))
        angular_speed = 2 * speed * rng.uniform(0.3, 1, (_BATCH, 1, 2))
        position = 0.5 - 0.5 * np.cos(phase + angular_speed * seconds)
        room = np.array([width, height]) - pixels[:, None, None]
        corners = np.rint(position * room).astype(int).tolist()
        yield from ((size, path[0], path[1:]) for size, path in zip(pixels.tolist(), corners, strict=True))
