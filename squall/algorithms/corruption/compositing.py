"""Paint for all kinds: tone, curves and layers, in place on uint8 RGB frames.

Factors are rounded to binary fractions, so that float32 arithmetic is exact and pixels do not depend on whether the processor
fuses multiply and add.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np

Colour = tuple[float, float, float]
LUMA = np.array([0.299, 0.587, 0.114])
"""Share of red, green and blue in brightness (ITU-R BT.601)."""


def dyadic(values: np.ndarray | float, denominator: int = 1024) -> np.ndarray:
    """Nearest multiples of 1/denominator."""
    return np.rint(np.asarray(values, float) * denominator) / denominator


def tone(frames: np.ndarray, **settings: Any) -> None:
    """Change the tone of frames as `tone_matrix` says."""
    matrix = tone_matrix(**settings)
    for frame in frames:
        cv2.transform(frame, matrix, dst=frame)


def tone_matrix(*, exposure: float = 1.0, saturation: float = 1.0, tint: Colour = (1, 1, 1), lift: float = 0.0,
                veil: float = 0.0, veil_colour: Colour = (255, 255, 255)) -> np.ndarray:
    """(3, 4), for cv2.transform: exposure, saturation and tint of a pixel, `lift` in grey levels, and an even veil over it."""
    mixing = saturation * np.eye(3) + (1 - saturation) * LUMA[None]
    matrix = (1 - veil) * exposure * np.asarray(tint)[:, None] * mixing
    offset = (1 - veil) * lift * np.asarray(tint) + veil * np.asarray(veil_colour, float)
    return np.column_stack([dyadic(matrix), dyadic(offset, 8)])


def curve(frames: np.ndarray, curves: np.ndarray) -> None:
    """One table of 256 values for all channels, (256,), or one for each, (3, 256); values in 0..255 are rounded."""
    tables = np.rint(np.clip(curves, 0, 255)).astype(np.uint8)
    if tables.ndim == 1:
        for frame in frames:
            cv2.LUT(frame, tables, dst=frame)
        return
    planes = [np.empty(frames.shape[1:3], np.uint8) for _ in range(3)]  # faster than a three-channel table
    for frame in frames:
        cv2.split(frame, planes)
        for plane, table in zip(planes, tables, strict=True):
            cv2.LUT(plane, table, dst=plane)
        cv2.merge(planes, dst=frame)


def blend(frames: np.ndarray, opacity: np.ndarray, grey: float) -> None:
    """Lay a grey over the frames, (1 - a) * frame + a * grey, for opacity a = 0..255, uint8 (n, H, W)."""
    ramp = np.rint(np.arange(256) * (grey / 255)).astype(np.uint8)
    for frame, plane in zip(frames, opacity, strict=True):
        dim(frame, cv2.bitwise_not(plane))
        cv2.add(frame, cv2.cvtColor(cv2.LUT(plane, ramp), cv2.COLOR_GRAY2RGB), dst=frame)


def dim(frame: np.ndarray, light: np.ndarray) -> None:
    """Multiply a frame (H, W, 3) by light / 255, uint8 (H, W)."""
    cv2.multiply(frame, cv2.cvtColor(light, cv2.COLOR_GRAY2RGB), dst=frame, scale=1 / 255)


def take_away(frames: np.ndarray, hidden: np.ndarray, shade: float) -> None:
    """Paint a grey where `hidden`, uint8 (n, H, W), is not 0."""
    fill = np.full(frames.shape[1:], round(shade), np.uint8)
    for frame, plane in zip(frames, hidden, strict=True):
        cv2.copyTo(fill, plane, frame)


class Grain:
    """Normal noise, the same on every call. Drawn once and read from another place in every frame: fresh draws cost tenfold."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> None:
        """For frames of `shape`, with a standard deviation in grey levels."""
        size = int(np.prod(shape))
        self._shape, self._size, self._slack = shape, size, size // 4 + 97
        steps = np.rint(_normal_quantiles() * deviation).astype(int)
        random_bytes = np.frombuffer(rng.bytes(size + self._slack), np.uint8)
        self._brighter, self._darker = (cv2.LUT(random_bytes, part.clip(0, 255).astype(np.uint8)).ravel()
                                        for part in (steps, -steps))

    def of(self, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """What to add to a frame and what to take away, of the frame's shape, for a frame's own random bits."""
        start = bits % self._slack
        window = slice(start, start + self._size)
        return self._brighter[window].reshape(self._shape), self._darker[window].reshape(self._shape)


@cache
def _normal_quantiles() -> np.ndarray:
    """The standard normal at the middle of each of 256 equally likely bins: turns random bytes into noise."""
    return np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])


def drifting_field(rng: np.random.Generator, seconds: np.ndarray, height: int, width: int, *, drift: float, scale: float = 1.0,
                   boil: float = 0.4, stretch: float = 1.0) -> np.ndarray:
    """Smooth field of mean 0 and deviation about 1, carried along by one wind, on a grid of some 28 points on the shorter side.

    It is a sum of plane waves; each has a pace of its own, so that what drifts also forms and dissolves. The grid is coarse
    enough for the product of waves to stay below the size from which BLAS would take more threads than a worker has.

    Args:
        seconds: (n,), when.
        drift: speed, in shorter sides per second.
        scale: size of the largest structures, in shorter sides.
        boil: how much the waves' paces differ, relative.
        stretch: how much longer structures are sideways than upright.

    Returns:
        (n, h, w), float64.
    """
    waves = 24
    unit = min(height, width)
    step = max(8, unit // 28)
    heading = rng.uniform(-0.35, 0.35) + np.pi * rng.integers(2)  # sideways, as wind is
    direction, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    pace = drift * rng.uniform(1 - boil, 1 + boil, waves)
    cycles = np.geomspace(0.4, 4, waves) / scale
    amplitude = np.geomspace(0.4, 4, waves) ** -0.8
    amplitude *= np.sqrt(2 / np.square(amplitude).sum())
    wave_x, wave_y = 2 * np.pi * cycles * np.stack([np.cos(direction) / stretch, np.sin(direction)])
    swept = (wave_x * np.cos(heading) + wave_y * np.sin(heading)) * pace * seconds[:, None]
    along_x = wave_x * np.arange(0, width, step)[:, None] / unit
    along_y = wave_y * np.arange(0, height, step)[:, None] / unit
    rows = amplitude * np.exp(1j * (along_y + (phase - swept)[:, None]))
    return (rows @ np.exp(1j * along_x).T).real


def enlarge(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (n, h, w) on a coarse grid to (n, H, W)."""
    large = np.empty((len(planes), height, width), np.uint8)
    for plane, target in zip(planes, large, strict=True):
        cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return large
