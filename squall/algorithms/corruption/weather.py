"""Rain, snow and fog.

Particles live in a world with depth: the same particle falls, drifts with the wind and leaves an exposure streak from
frame to frame, the near ones faster, longer and wider (parallax). Nothing is redrawn at random or fixed to the lens.
"""

from __future__ import annotations

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption

_DEPTH_EDGES = np.linspace(1, 4, 6)
"""Near plane 1, far plane 4; particles are drawn in five bands, each with one width and one opacity."""
_GOLDEN = 0.6180339887498949
_SUBPIXEL_BITS = 4
_FOG_WAVES = 24
_FOG_GRID_STEP = 4


@corruption(
    "weather",
    density=Parameter(lambda s: 40 + 160 * s, 0, 2000),
    speed=Parameter(lambda s: 0.25 + 0.1 * s, 0, 1),
    wind=Parameter(lambda s: 0.5, 0, 2),
    width=Parameter(lambda s: 0.008 + 0.008 * s, 0, 0.1),
    opacity=Parameter(lambda s: 0.45 + 0.4 * s, 0, 1),
    haze=Parameter(lambda s: 0.35 * s, 0, 1),
)
def rain(
    frames: np.ndarray, rng: np.random.Generator, *,
    density: float, speed: float, wind: float, width: float, opacity: float, haze: float,
) -> None:
    """Streaks and a grey veil. `density` counts drops per square of the shorter side; see `_fall` for the rest."""
    heads, tails, depth = _fall(rng, frames.shape, density, speed, wind, exposure=0.6, sway=0.0)
    _blend(frames, _draw(frames.shape, heads, tails, depth, width, opacity, haze), colour=205, exposure=1 - 0.4 * haze)


@corruption(
    "weather",
    density=Parameter(lambda s: 40 + 160 * s, 0, 2000),
    speed=Parameter(lambda s: 0.06 + 0.04 * s, 0, 1),
    wind=Parameter(lambda s: 0.8, 0, 2),
    width=Parameter(lambda s: 0.02 + 0.02 * s, 0, 0.2),
    opacity=Parameter(lambda s: 0.7 + 0.2 * s, 0, 1),
    haze=Parameter(lambda s: 0.4 * s, 0, 1),
)
def snow(
    frames: np.ndarray, rng: np.random.Generator, *,
    density: float, speed: float, wind: float, width: float, opacity: float, haze: float,
) -> None:
    """Swaying flakes and a white veil. `density` counts flakes per square of the shorter side."""
    heads, tails, depth = _fall(rng, frames.shape, density, speed, wind, exposure=0.4, sway=0.04)
    _blend(frames, _draw(frames.shape, heads, tails, depth, width, opacity, haze), colour=240)


@corruption(
    "weather",
    optical_depth=Parameter(lambda s: 1.5 * s, 0, 10),
    patchiness=Parameter(lambda s: 0.35, 0, 1),
    drift=Parameter(lambda s: 0.015, 0, 1),
)
def fog(frames: np.ndarray, rng: np.random.Generator, *, optical_depth: float, patchiness: float, drift: float) -> None:
    """Fog banks, with opacity 1 - exp(-optical depth), the law of Beer and Lambert.

    `patchiness` is the relative deviation of the optical depth across the frame; `drift` is the speed of the banks,
    in shorter sides per frame.
    """
    banks = 1 + patchiness * _drifting_field(rng, frames.shape, drift)
    alpha = np.rint(255 * (1 - np.exp(-optical_depth * banks.clip(0)))).astype(np.uint8)
    height, width = frames.shape[1:3]
    _blend(frames, np.stack([cv2.resize(plane, (width, height)) for plane in alpha]), colour=215)


def _fall(
    rng: np.random.Generator, shape: tuple[int, ...], density: float, speed: float, wind: float,
    exposure: float, sway: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow particles through the clip.

    Args:
        speed: fall of a particle at depth 1, in shorter sides per frame; at depth z it appears z times slower.
        wind: largest sideways speed as a fraction of the fall; the clip's own is drawn from -wind to wind.
        exposure: share of the frame interval during which the shutter is open.
        sway: sideways amplitude at depth 1, in shorter sides.

    Returns:
        Heads and tails of the streaks, pixels, (T, N, 2) as x, y; and depths (N,). A smaller density gives the first
        of the same particles.
    """
    count, height, width = shape[:3]
    unit = min(height, width)
    slope = rng.uniform(-wind, wind)
    margin = 0.05 + sway + exposure * speed * max(wind, 1)  # room in which particles enter and leave unseen
    extent = np.array([width, height]) / unit + 2 * margin
    start_x, start_y, volume, pace, phase, rate = rng.random((round(density * extent.prod()), 6)).T
    depth = np.cbrt(1 + volume * (_DEPTH_EDGES[-1] ** 3 - 1))  # uniform in the volume that the camera sees
    fall = speed * (0.9 + 0.2 * pace) / depth
    time = np.arange(count)[:, None]
    angular_speed = 0.15 + 0.25 * rate
    sway_angle = angular_speed * time + 2 * np.pi * phase
    y = start_y * extent[1] + fall * time
    x = start_x * extent[0] + slope * fall * time + sway / depth * np.sin(sway_angle)
    x += np.floor(y / extent[1]) * _GOLDEN * extent[0]  # a particle that comes round again falls elsewhere
    heads = np.stack([x % extent[0], y % extent[1]], axis=-1) - margin
    velocity_x = slope * fall + sway / depth * angular_speed * np.cos(sway_angle)
    velocity = np.stack([velocity_x, np.broadcast_to(fall, y.shape)], axis=-1)
    return heads * unit, (heads - exposure * velocity) * unit, depth


def _draw(
    shape: tuple[int, ...], heads: np.ndarray, tails: np.ndarray, depth: np.ndarray,
    width: float, opacity: float, haze: float,
) -> np.ndarray:
    """Opacity of the streaks over an even haze: uint8 (T, H, W). A streak thinner than a pixel is fainter instead."""
    alpha = np.full(shape[:3], round(haze * 255), np.uint8)
    streaks = np.rint(np.stack([tails, heads], axis=2) * 2**_SUBPIXEL_BITS).astype(np.int32)
    for near, far in zip(_DEPTH_EDGES[-2::-1], _DEPTH_EDGES[:0:-1], strict=True):  # the nearest are drawn last
        band = streaks[:, (near <= depth) & (depth < far)]
        thickness = width * min(shape[1:3]) / ((near + far) / 2)
        level = round(255 * (haze + (1 - haze) * opacity * min(thickness, 1)))
        for plane, lines in zip(alpha, band, strict=True):
            cv2.polylines(plane, lines, False, level, max(round(thickness), 1), cv2.LINE_AA, _SUBPIXEL_BITS)
    return alpha


def _drifting_field(rng: np.random.Generator, shape: tuple[int, ...], drift: float) -> np.ndarray:
    """Smooth field of mean 0 and deviation about 1, (T, h, w) on a coarse grid: plane waves carried by one wind.

    Each wave has its own small change of pace, so banks also form and dissolve.
    """
    count, height, width = shape[:3]
    unit = min(height, width)
    heading = rng.uniform(0, 2 * np.pi)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, _FOG_WAVES))
    cycles = np.geomspace(0.4, 4, _FOG_WAVES)
    amplitude = cycles**-0.8
    amplitude *= np.sqrt(2 / np.square(amplitude).sum())
    wave_x, wave_y = 2 * np.pi * cycles * (np.cos(direction), np.sin(direction))
    pace = drift * rng.uniform(0.6, 1.4, _FOG_WAVES)
    swept = (wave_x * np.cos(heading) + wave_y * np.sin(heading)) * pace * np.arange(count)[:, None]
    along_x = wave_x * np.arange(0, width, _FOG_GRID_STEP)[:, None] / unit
    along_y = wave_y * np.arange(0, height, _FOG_GRID_STEP)[:, None] / unit
    rows = amplitude * np.exp(1j * (along_y + (phase - swept)[:, None]))
    return (rows @ np.exp(1j * along_x).T).real


def _blend(frames: np.ndarray, alpha: np.ndarray, colour: int, exposure: float = 1.0) -> None:
    """In place: exposure * (1 - alpha) * frame + alpha * colour, alpha in 0..255."""
    ramp = np.rint(np.arange(256) * (colour / 255)).astype(np.uint8)
    for frame, plane in zip(frames, alpha, strict=True):
        clear = cv2.cvtColor(cv2.bitwise_not(plane), cv2.COLOR_GRAY2RGB)
        cv2.multiply(frame, clear, dst=frame, scale=exposure / 255)
        cv2.add(frame, cv2.cvtColor(cv2.LUT(plane, ramp), cv2.COLOR_GRAY2RGB), dst=frame)
