"""Changes of light, as a camera would record them."""

from __future__ import annotations

import cv2
import numpy as np

from squall.algorithms.corruption.compositing import Grain, curve, dim, drifting_field, dyadic, enlarge, tone_matrix
from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_V = np.linspace(0, 1, 256)
_BLOOM_STEP = 8
_REACH = 1.0
"""How far from a shadow's edge its field is told apart, in deviations."""


@corruption(
    "photometric",
    gamma=Parameter(lambda x: 1 + 0.9 * x, 0.2, 6),
    gain=Parameter(lambda x: 1 - 0.6 * x, 0, 1),
    warmth=Parameter(lambda x: 0.45 * x, 0, 1),
)
def dusk(frames: np.ndarray, timeline: Timeline, *, gamma: float, gain: float, warmth: float) -> None:
    """Low warm light: blue is lost first in what the sun still reaches, while the shadows keep some of the sky's."""
    light = gain * _V**gamma
    reached = _V**0.5
    curve(frames, 255 * np.stack([light * (1 + 0.12 * warmth), light * (1 - 0.42 * warmth * reached),
                                  light * (1 - warmth * reached)]))


@corruption(
    "photometric",
    gamma=Parameter(lambda x: 1 + 1.3 * x, 0.2, 6),
    gain=Parameter(lambda x: 1 - 0.72 * x, 0, 1),
    blueness=Parameter(lambda x: 0.4 * x, 0, 1),
    saturation=Parameter(lambda x: 1 - 0.65 * x, 0, 1),
    noise=Parameter(lambda x: 9 * x, 0, 60),
)
def night(frames: np.ndarray, timeline: Timeline, *, gamma: float, gain: float, blueness: float, saturation: float,
          noise: float) -> None:
    """Moonlight on a gained-up sensor: dark, blue, pale and grainy. `noise` is its deviation in grey levels (0 to 255).

    The curve gain * v ** gamma is made of two straight lines that meet at v = 1/2, which costs a third of a table.
    """
    tint = (1 - blueness, 1 - 0.45 * blueness, 1.0)
    slope = gain * 0.5 ** (gamma - 1)
    shadows = tone_matrix(exposure=slope, saturation=saturation, tint=tint)
    lights = tone_matrix(exposure=2 * gain - slope, saturation=saturation, tint=tint, lift=255 * (slope - gain))
    grain = Grain(timeline.rng(), frames.shape[1:], noise)
    for frame, bits in zip(frames, timeline.per_frame(1)[:, 0].tolist(), strict=True):
        light = cv2.transform(frame, lights)
        cv2.transform(frame, shadows, dst=frame)
        cv2.max(frame, light, dst=frame)
        brighter, darker = grain.of(bits)
        cv2.add(frame, brighter, dst=frame)
        cv2.subtract(frame, darker, dst=frame)


@corruption(
    "photometric",
    gain=Parameter(lambda x: 1 + 2.4 * x, 1, 20),
    lift=Parameter(lambda x: 0.16 * x, 0, 1),
    bloom=Parameter(lambda x: 0.5 * x, 0, 2),
)
def overexposure(frames: np.ndarray, timeline: Timeline, *, gain: float, lift: float, bloom: float) -> None:
    """Too much light: highlights clip and bleed over their edges, and stray light lifts black to `lift` of white."""
    height, width = frames.shape[1:3]
    coarse = max(width // _BLOOM_STEP, 1), max(height // _BLOOM_STEP, 1)
    bleeding = np.rint(255 * bloom * ((gain * _V - 0.8) / 1.2).clip(0, 1)).clip(0, 255).astype(np.uint8)
    for frame in frames:
        bright = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), coarse, interpolation=cv2.INTER_NEAREST)
        glow = cv2.resize(cv2.blur(cv2.blur(cv2.LUT(bright, bleeding), (3, 3)), (5, 5)), (width, height))
        cv2.convertScaleAbs(frame, frame, float(dyadic(gain)), round(255 * lift))
        cv2.add(frame, cv2.cvtColor(glow, cv2.COLOR_GRAY2RGB), dst=frame)


@corruption(
    "photometric",
    depth=Parameter(lambda x: 0.06 + 0.86 * x, 0, 1),
    share=Parameter(lambda x: 0.3 + 0.3 * x, 0, 1),
    softness=Parameter(lambda x: 0.3, 0.01, 2),
    size=Parameter(lambda x: 0.9, 0.05, 10),
    drift=Parameter(lambda x: 0.22, 0, 10),
)
def shadow(frames: np.ndarray, timeline: Timeline, *, depth: float, share: float, softness: float, size: float,
           drift: float) -> np.ndarray:
    """Soft-edged shadows that move across the picture, as of clouds and trees.

    They take the share `depth` of the light from about the share `share` of the picture, and drift by `drift` shorter sides
    per second; `size` is that of the largest, in shorter sides.
    """
    height, width = frames.shape[1:3]
    field = drifting_field(timeline.rng(), timeline.seconds, height, width, drift=drift, scale=size, boil=0.15)
    threshold = np.interp(1 - share, *_normal_quantile_table())
    level = enlarge(np.rint((field - threshold) * (127 / _REACH) + 128).clip(0, 255).astype(np.uint8), height, width)
    covered = ((np.arange(256) - 128) * (_REACH / 127) / softness + 0.5).clip(0, 1)
    opacity = np.rint(255 * depth * covered * covered * (3 - 2 * covered)).astype(np.uint8)
    for frame, plane in zip(frames, level, strict=True):
        cv2.LUT(plane, opacity, dst=plane)  # edges are drawn on the pixels, not on the coarse grid
        dim(frame, cv2.bitwise_not(plane))
    return level


def _normal_quantile_table() -> tuple[list[float], list[float]]:
    """Shares and the values that so many normal numbers stay below."""
    return ([0, 0.001, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 0.999, 1],
            [-6, -3.09, -2.05, -1.28, -0.84, -0.52, -0.25, 0, 0.25, 0.52, 0.84, 1.28, 2.05, 3.09, 6])
