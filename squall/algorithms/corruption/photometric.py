"""Changes of light: one tone curve per channel for the whole clip, and sensor noise that changes with every frame."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption


@corruption(
    "photometric",
    gamma=Parameter(lambda s: 1 + 0.6 * s, 0.2, 5),
    gain=Parameter(lambda s: 1 - 0.55 * s, 0, 1),
    warmth=Parameter(lambda s: 0.4 * s, 0, 1),
)
def dusk(frames: np.ndarray, rng: np.random.Generator, *, gamma: float, gain: float, warmth: float) -> None:
    """Low warm light. `warmth` is the share of blue that is lost; green loses half of it."""
    _apply_curve(frames, gamma, gain, tint=(1.0, 1 - 0.5 * warmth, 1 - warmth))


@corruption(
    "photometric",
    gamma=Parameter(lambda s: 1 + 0.6 * s, 0.2, 5),
    gain=Parameter(lambda s: 1 - 0.75 * s, 0, 1),
    blueness=Parameter(lambda s: 0.35 * s, 0, 1),
    noise=Parameter(lambda s: 12 * s, 0, 40),
)
def night(
    frames: np.ndarray, rng: np.random.Generator, *, gamma: float, gain: float, blueness: float, noise: float
) -> None:
    """Moonlight on a gained-up sensor. `noise` is its standard deviation in grey levels (0-255)."""
    _apply_curve(frames, gamma, gain, tint=(1 - blueness, 1 - 0.5 * blueness, 1.0))
    _add_noise(frames, rng, noise)


@corruption(
    "photometric",
    gain=Parameter(lambda s: 1 + 1.6 * s, 1, 10),
    lift=Parameter(lambda s: 0.2 * s, 0, 1),
)
def overexposure(frames: np.ndarray, rng: np.random.Generator, *, gain: float, lift: float) -> None:
    """Too much light: highlights clip, and stray light lifts black to the fraction `lift` of white."""
    _apply_curve(frames, 1.0, gain, lift)


def _apply_curve(
    frames: np.ndarray, gamma: float, gain: float, lift: float = 0.0, tint: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> None:
    """In place: tint * (lift + gain * v ** gamma), clipped, for v in 0..1, through one table per channel."""
    light = lift + gain * np.linspace(0, 1, 256) ** gamma
    curves = np.rint(np.clip(np.outer(tint, light), 0, 1) * 255).astype(np.uint8)
    planes = [np.empty(frames.shape[1:3], np.uint8) for _ in range(3)]  # faster than a three-channel table
    for frame in frames:
        cv2.split(frame, planes)
        for plane, curve in zip(planes, curves, strict=True):
            cv2.LUT(plane, curve, dst=plane)
        cv2.merge(planes, dst=frame)


def _add_noise(frames: np.ndarray, rng: np.random.Generator, deviation: float) -> None:
    """Gaussian noise. Drawn once and read from another offset in every frame, as fresh draws would cost tenfold."""
    size = frames[0].size
    slack = size // 4 + 1
    steps = np.rint(_normal_quantiles() * deviation).astype(int)
    random_bytes = np.frombuffer(rng.bytes(size + slack), np.uint8)
    brighter, darker = (cv2.LUT(random_bytes, part.clip(0).astype(np.uint8)).ravel() for part in (steps, -steps))
    for frame, offset in zip(frames, rng.integers(slack, size=len(frames)), strict=True):
        window = slice(offset, offset + size)
        cv2.add(frame, brighter[window].reshape(frame.shape), dst=frame)
        cv2.subtract(frame, darker[window].reshape(frame.shape), dst=frame)


@cache
def _normal_quantiles() -> np.ndarray:
    """The standard normal at the middle of each of 256 equally likely bins: turns random bytes into noise."""
    return np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
