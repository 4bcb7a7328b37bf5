"""Drops, flakes and stones: particles that fall through a world with depth, and the streaks that they leave on the sensor.

The camera looks level into a volume from `near` to `far` metres, with a field of view of 53 degrees along the shorter side of
the frame, so that a particle at depth z metres appears z times smaller and slower than at 1 m. Where it is follows from the
seed and the time alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from squall.algorithms.corruption.timeline import Timeline

_GOLDEN = 0.6180339887498949
_PER_PARTICLE = 8
_ROWS = (4, 6, 9, 13, 19, 28, 41, 60, 88, 130, 190, 280)
"""Capsules are drawn together with others of about their length: patches of so many rows."""
_CHUNK = 1 << 15
_THIN = 1.3
"""Streaks whose radius with half their soft edge is less, in pixels, are drawn as lines."""
_LEVELS = 12
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Fall:
    """How particles move and how the camera sees them."""

    density: float
    """Particles per square of the shorter side, in view at any time."""
    speed: float
    """Metres per second, downwards."""
    wind: float
    """Metres per second, to the right."""
    gust: float
    """Swing of the wind, relative to it; two periods of 1.5 to 6 s."""
    exposure_s: float
    """Time that the shutter is open."""
    near: float
    far: float
    """Metres."""
    sway: float = 0.0
    """Sideways amplitude of a flake's own path, metres."""


@dataclass(frozen=True, slots=True)
class Streaks:
    """What particles leave on the sensor in each frame, in pixels, as x, y."""

    head: np.ndarray
    """(n, N, 2): where each particle is when the shutter closes."""
    tail: np.ndarray
    """(n, N, 2): where it was when the shutter opened."""
    depth: np.ndarray
    """(N,), metres."""
    luck: np.ndarray
    """(N,) in [0, 1): a number of each particle's own, for its size."""


def fall(timeline: Timeline, shape: tuple[int, ...], world: Fall) -> Streaks:
    """Follow particles to the frames of a timeline; a smaller density gives the first of the same particles."""
    height, width = shape[1:3]
    unit = min(height, width)
    rng = timeline.rng()
    phases, rates = rng.uniform(0, 2 * np.pi, 2), 2 * np.pi / rng.uniform(1.5, 6, 2)
    reach = world.exposure_s * np.hypot(world.speed, world.wind * (1 + world.gust)) + world.sway
    sides = np.array([width, height]) / unit
    typical = np.prod(sides + 2 * (0.06 + 0.7 * reach) / world.far)
    start_x, start_y, volume, pace, phase, rate, luck, _ = rng.random((round(world.density * typical), _PER_PARTICLE)).T
    depth = np.cbrt(world.near**3 + volume * (world.far**3 - world.near**3))  # uniform in the volume that is seen
    margin = ((0.06 + reach) / depth)[:, None]  # room in which particles enter and leave unseen
    extent = sides + 2 * margin
    speed = world.speed * (0.9 + 0.2 * pace)
    turning = 2 * np.pi * (0.15 + 0.35 * rate)

    def place(seconds: np.ndarray) -> np.ndarray:
        """(n, N, 2): place in shorter sides, not yet wrapped around."""
        time = seconds[:, None]
        gusts = sum(weight * (np.cos(phase_) - np.cos(rate_ * time + phase_)) / rate_
                    for weight, phase_, rate_ in zip((0.6, 0.4), phases, rates, strict=True))
        x = world.wind * (time + world.gust * gusts) + world.sway * np.sin(turning * time + 2 * np.pi * phase)
        return np.stack([start_x * extent[:, 0] + x / depth, start_y * extent[:, 1] + speed * time / depth], axis=-1)

    head, tail = place(timeline.seconds), place(timeline.seconds - world.exposure_s)
    lap = np.floor(head[..., 1] / extent[:, 1])
    shift = np.stack([lap * _GOLDEN * extent[:, 0], np.zeros_like(lap)], axis=-1)  # who comes round again falls elsewhere
    wrapped = (head + shift) % extent
    return Streaks((wrapped - margin) * unit, (wrapped - (head - tail) - margin) * unit, depth, luck)


def draw(shape: tuple[int, ...], streaks: Streaks, radius: np.ndarray, softness: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Draw streaks as capsules with soft edges, thin ones as lines; where they overlap the more opaque one shows.

    Args:
        radius, softness: (N,), pixels; the edge fades over `softness`, at least one pixel. A streak thinner than a pixel is
            fainter instead.
        opacity: (N,) in [0, 1].

    Returns:
        uint8 (n, H, W).
    """
    count, height, width = shape[:3]
    plane = np.zeros((count, height, width), np.uint8)
    level = 255 * opacity * np.minimum(2 * radius, 1)
    radius, softness = np.maximum(radius, 0.5), np.maximum(softness, 1)
    thin = radius + 0.5 * softness < _THIN
    reach = (radius + softness / 2)[:, None]
    low, high = np.minimum(streaks.head, streaks.tail) - reach, np.maximum(streaks.head, streaks.tail) + reach
    seen = ((high >= 0) & (low <= (width, height))).all(axis=-1) & (level > 0.5)
    _draw_lines(plane, streaks, level, seen & thin)
    _draw_capsules(plane, streaks, radius, softness, level, seen & ~thin)
    return plane


def _draw_lines(plane: np.ndarray, streaks: Streaks, level: np.ndarray, seen: np.ndarray) -> None:
    """One pixel wide, the fainter ones first, in `_LEVELS` shades."""
    ends = np.rint(np.stack([streaks.tail, streaks.head], axis=2) * 2**_SUBPIXEL_BITS).astype(np.int32)
    shade = np.ceil(level * (_LEVELS / 255)).clip(1, _LEVELS).astype(int)
    for picture, lines, drawn in zip(plane, ends, seen, strict=True):
        for value in np.unique(shade[drawn]):
            of_value = lines[drawn & (shade == value)]
            cv2.polylines(picture, of_value, False, round(value * 255 / _LEVELS), 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_capsules(plane: np.ndarray, streaks: Streaks, radius: np.ndarray, softness: np.ndarray, level: np.ndarray,
                   seen: np.ndarray) -> None:
    frame, particle = np.nonzero(seen)
    head, tail = _fixed(streaks.head[seen]), _fixed(streaks.tail[seen])
    radius, softness, level = _fixed(radius[particle]), _fixed(softness[particle]), level[particle].astype(np.float32)
    steep = np.abs(head - tail)[:, 1] >= np.abs(head - tail)[:, 0]
    for axis, chosen in ((1, steep), (0, ~steep)):  # along the rows of a steep streak, the columns of a flat one
        forward = (head[:, axis] <= tail[:, axis])[:, None]
        first, last = np.where(forward, head, tail), np.where(forward, tail, head)
        along, across = last[:, axis] - first[:, axis], np.abs(last - first)[:, 1 - axis]
        length = along + 2 * radius + softness + 1
        width = (2 * radius + softness) * np.hypot(1, np.minimum(across / np.maximum(along, 1), 1))
        size_class = np.searchsorted(_ROWS, length)
        for size in np.unique(size_class[chosen]):
            of = np.flatnonzero(chosen & (size_class == size))
            rows = _ROWS[size] if size < len(_ROWS) else int(np.ceil(length[of].max()))
            columns = int(np.ceil(width[of].max())) + 2
            for part in np.split(of, range(0, len(of), max(_CHUNK // (rows * columns), 1))):  # arrays that the cache holds
                _stamp(plane, frame[part], first[part], last[part], radius[part], softness[part], level[part], axis,
                       (rows, columns))


def _stamp(plane: np.ndarray, frame: np.ndarray, first: np.ndarray, last: np.ndarray, radius: np.ndarray, softness: np.ndarray,
           level: np.ndarray, axis: int, patch: tuple[int, int]) -> None:
    """Draw m capsules in patches of (rows, columns); `axis` 1 walks down the rows of the frame, 0 along its columns."""
    rows, columns = patch
    _, height, width = plane.shape
    along, across = (height, width) if axis else (width, height)
    a, b = first[:, axis, None], first[:, 1 - axis, None]
    da, db = last[:, axis, None] - a, last[:, 1 - axis, None] - b
    row = np.floor(a - (radius + softness / 2)[:, None]) + np.arange(rows, dtype=np.float32)
    off_a = row - a
    centre = b + db * (off_a / np.maximum(da, 1 / 16)).clip(0, 1)
    column = np.floor(centre - (columns / 2 - 0.5))[..., None] + np.arange(columns, dtype=np.float32)
    off_b = column - b[..., None]
    share = off_b * db[..., None]
    share += (off_a * da)[..., None]
    share /= np.maximum(da * da + db * db, 1 / 256)[..., None]
    np.clip(share, 0, 1, out=share)  # place along the streak that is nearest to each pixel
    off_b -= share * db[..., None]
    share *= -da[..., None]
    share += off_a[..., None]
    off_b *= off_b
    share *= share
    off_b += share
    cover = np.sqrt(off_b, out=off_b)
    np.subtract((radius / softness + 0.5)[:, None, None], cover / softness[:, None, None], out=cover)
    np.clip(cover, 0, 1, out=cover)
    cover *= level[:, None, None]
    np.rint(cover, out=cover)
    inside = cover > 0
    inside &= ((row >= 0) & (row < along))[..., None]
    inside &= column >= 0
    inside &= column < across
    row_step, column_step = (width, 1) if axis else (1, width)
    place = column[inside].astype(np.int64) * column_step
    start = row.astype(np.int64) * row_step + frame[:, None] * (height * width)
    place += np.broadcast_to(start[..., None], inside.shape)[inside]
    np.maximum.at(plane.reshape(-1), place, cover[inside].astype(np.uint8))


def _fixed(values: np.ndarray) -> np.ndarray:
    """To sixteenths of a pixel, as float32: from here on arithmetic is the same on every processor."""
    return (np.rint(np.asarray(values) * 16) / 16).astype(np.float32)
