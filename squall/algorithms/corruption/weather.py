"""Rain, storm, snow, hail and fog.

Particles live in a world with depth: each falls, drifts with the wind and leaves an exposure streak from frame to frame, the
near ones faster, longer and wider (parallax). Speeds are in metres per second, so that a clip of a higher frame rate shows
smaller steps. Nothing is redrawn at random or fixed to the lens.
"""

from __future__ import annotations

import numpy as np

from squall.algorithms.corruption.compositing import blend, drifting_field, enlarge, tone
from squall.algorithms.corruption.particles import Fall, draw, fall
from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_HEADING = Parameter(lambda x: 0, -1, 1)
"""-1: the wind blows to the left, 1: to the right, 0: the seed says."""
_EXPOSURE = Parameter(lambda x: 1 / 60, 0, 1)


@corruption(
    "weather",
    density=Parameter(lambda x: 20 + 560 * x, 0, 5000),
    speed=Parameter(lambda x: 6.0, 0, 50),
    wind=Parameter(lambda x: 0.6, 0, 50),
    heading=_HEADING,
    gust=Parameter(lambda x: 0.3, 0, 1),
    exposure_s=_EXPOSURE,
    size=Parameter(lambda x: 0.008 + 0.007 * x, 0, 0.2),
    opacity=Parameter(lambda x: 0.25 + 0.65 * x, 0, 1),
    veil=Parameter(lambda x: 0.85 * x, 0, 1),
    near=Parameter(lambda x: 1.5, 0.1, 100),
    far=Parameter(lambda x: 8, 0.1, 1000),
)
def light_rain(frames: np.ndarray, timeline: Timeline, *, veil: float, **world: float) -> np.ndarray:
    """Fine streaks, a thin grey veil. `density` counts drops per square of the shorter side, `size` is in metres."""
    tone(frames, exposure=1 - 0.25 * veil, saturation=1 - 0.8 * veil, veil=0.6 * veil, veil_colour=(172, 176, 180))
    return _rain(frames, timeline, **world)


@corruption(
    "weather",
    density=Parameter(lambda x: 20 + 640 * x, 0, 5000),
    speed=Parameter(lambda x: 8.5, 0, 50),
    wind=Parameter(lambda x: 1.5, 0, 50),
    heading=_HEADING,
    gust=Parameter(lambda x: 0.4, 0, 1),
    exposure_s=_EXPOSURE,
    size=Parameter(lambda x: 0.010 + 0.012 * x, 0, 0.2),
    opacity=Parameter(lambda x: 0.3 + 0.65 * x, 0, 1),
    veil=Parameter(lambda x: 0.6 * x, 0, 1),
    near=Parameter(lambda x: 1.2, 0.1, 100),
    far=Parameter(lambda x: 8, 0.1, 1000),
)
def heavy_rain(frames: np.ndarray, timeline: Timeline, *, veil: float, **world: float) -> np.ndarray:
    """Dense long streaks and a grey veil that hides colours."""
    tone(frames, exposure=1 - 0.35 * veil, saturation=1 - 0.8 * veil, veil=0.7 * veil, veil_colour=(158, 163, 168))
    return _rain(frames, timeline, **world)


@corruption(
    "weather",
    density=Parameter(lambda x: 20 + 580 * x, 0, 5000),
    speed=Parameter(lambda x: 9.0, 0, 50),
    wind=Parameter(lambda x: 5 + 3 * x, 0, 50),
    heading=_HEADING,
    gust=Parameter(lambda x: 0.6, 0, 1),
    exposure_s=_EXPOSURE,
    size=Parameter(lambda x: 0.010 + 0.010 * x, 0, 0.2),
    opacity=Parameter(lambda x: 0.2 + 0.55 * x, 0, 1),
    veil=Parameter(lambda x: 0.55 * x, 0, 1),
    darkness=Parameter(lambda x: 0.55 * x, 0, 1),
    sheets=Parameter(lambda x: 0.35 * x, 0, 1),
    lightning_per_s=Parameter(lambda x: 0.5, 0, 30),
    near=Parameter(lambda x: 1.2, 0.1, 100),
    far=Parameter(lambda x: 8, 0.1, 1000),
)
def storm(frames: np.ndarray, timeline: Timeline, *, veil: float, darkness: float, sheets: float, lightning_per_s: float,
          **world: float) -> np.ndarray:
    """Rain that gusts drive sideways in sheets, under a dark sky that lightning lights up."""
    flash = _lightning(timeline, lightning_per_s)
    for frame, light in zip(frames, flash, strict=True):
        lit = 1 + 1.6 * float(light)
        tone(frame[None], exposure=(1 - darkness) * lit, saturation=1 - 0.8 * veil, tint=(0.94, 0.98, 1.04), veil=0.6 * veil,
             veil_colour=tuple(min(value * (1 - 0.5 * darkness) * lit, 255) for value in (128, 136, 146)))
    return _rain(frames, timeline, sheets=sheets, **world)


@corruption(
    "weather",
    density=Parameter(lambda x: 10 + 490 * x, 0, 5000),
    speed=Parameter(lambda x: 1.1, 0, 50),
    wind=Parameter(lambda x: 0.5 + 0.6 * x, 0, 50),
    heading=_HEADING,
    gust=Parameter(lambda x: 0.5, 0, 1),
    exposure_s=Parameter(lambda x: 1 / 120, 0, 1),
    size=Parameter(lambda x: 0.018 + 0.022 * x, 0, 0.5),
    opacity=Parameter(lambda x: 0.5 + 0.5 * x, 0, 1),
    sway=Parameter(lambda x: 0.08, 0, 2),
    veil=Parameter(lambda x: 0.55 * x, 0, 1),
    near=Parameter(lambda x: 0.9, 0.1, 100),
    far=Parameter(lambda x: 6, 0.1, 1000),
)
def snow(frames: np.ndarray, timeline: Timeline, *, density: float, speed: float, wind: float, heading: float, gust: float,
         exposure_s: float, size: float, opacity: float, sway: float, veil: float, near: float, far: float) -> np.ndarray:
    """Swaying flakes, near ones large and out of focus, and a white veil."""
    tone(frames, exposure=1 - 0.1 * veil, saturation=1 - 0.7 * veil, veil=0.8 * veil, veil_colour=(205, 208, 214))
    world = Fall(density, speed, _blown(timeline, wind, heading), gust, exposure_s, near, max(far, near), sway)
    streaks = fall(timeline, frames.shape, world)
    blur = 0.5 * np.abs(1 / streaks.depth - 1 / 2.5)  # focused at 2.5 m
    radius = 0.5 * size * (0.5 + streaks.luck) / streaks.depth
    unit = min(frames.shape[1:3])
    spread = np.square(radius / (radius + 0.02 * blur))  # the same light over a larger disc
    layer = draw(frames.shape, streaks, unit * (radius + 0.02 * blur), unit * (0.6 * radius + 0.05 * blur),
                 opacity * np.maximum(spread, 0.45))
    blend(frames, layer, 247)
    return layer


@corruption(
    "weather",
    density=Parameter(lambda x: 10 + 400 * x, 0, 5000),
    speed=Parameter(lambda x: 13.0, 0, 60),
    wind=Parameter(lambda x: 1.0 + 1.5 * x, 0, 50),
    heading=_HEADING,
    gust=Parameter(lambda x: 0.3, 0, 1),
    exposure_s=Parameter(lambda x: 1 / 400, 0, 1),
    size=Parameter(lambda x: 0.012 + 0.022 * x, 0, 0.5),
    opacity=Parameter(lambda x: 0.6 + 0.4 * x, 0, 1),
    veil=Parameter(lambda x: 0.55 * x, 0, 1),
    near=Parameter(lambda x: 0.9, 0.1, 100),
    far=Parameter(lambda x: 6, 0.1, 1000),
)
def hail(frames: np.ndarray, timeline: Timeline, *, density: float, speed: float, wind: float, heading: float, gust: float,
         exposure_s: float, size: float, opacity: float, veil: float, near: float, far: float) -> np.ndarray:
    """Hard white stones that fall fast, seen with a short exposure: pellets, hardly streaks."""
    tone(frames, exposure=1 - 0.35 * veil, saturation=1 - 0.7 * veil, veil=0.6 * veil, veil_colour=(160, 165, 172))
    world = Fall(density, speed, _blown(timeline, wind, heading), gust, exposure_s, near, max(far, near))
    streaks = fall(timeline, frames.shape, world)
    radius = 0.5 * min(frames.shape[1:3]) * size * (0.5 + streaks.luck) / streaks.depth
    layer = draw(frames.shape, streaks, radius, 0.5 * radius, np.full(len(radius), opacity))
    blend(frames, layer, 238)
    return layer


@corruption(
    "weather",
    optical_depth=Parameter(lambda x: 2.6 * x, 0, 20),
    ground=Parameter(lambda x: 0.55, 0, 1),
    horizon=Parameter(lambda x: 0.4, 0, 1),
    patchiness=Parameter(lambda x: 0.3, 0, 1),
    drift=Parameter(lambda x: 0.25, 0, 10),
    airlight=Parameter(lambda x: 208, 0, 255),
)
def fog(frames: np.ndarray, timeline: Timeline, *, optical_depth: float, ground: float, horizon: float, patchiness: float,
        drift: float, airlight: float) -> np.ndarray:
    """Drifting fog banks, thicker with distance: opacity 1 - exp(-optical depth), the law of Beer and Lambert.

    Distance is taken from the row alone, as over flat ground: all above `horizon` (share of the height from the top) is far,
    and the optical depth falls to the share 1 - `ground` at the lower edge. `patchiness` is its relative deviation across the
    frame, `drift` the speed of the banks in shorter sides per second.
    """
    height, width = frames.shape[1:3]
    banks = drifting_field(timeline.rng(), timeline.seconds, height, width, drift=drift, scale=1.2, stretch=2.0)
    row = np.arange(banks.shape[1]) / banks.shape[1]
    nearer = ((row - horizon) / max(1 - horizon, 1e-3)).clip(0, 1)
    thickness = optical_depth * (1 - ground * nearer)[:, None] * (1 + patchiness * banks).clip(0)
    layer = enlarge(np.rint(255 * (1 - np.exp(-thickness))).astype(np.uint8), height, width)
    blend(frames, layer, airlight)
    return layer


def _rain(frames: np.ndarray, timeline: Timeline, *, density: float, speed: float, wind: float, heading: float, gust: float,
          exposure_s: float, size: float, opacity: float, near: float, far: float, sheets: float = 0.0) -> np.ndarray:
    world = Fall(density, speed, _blown(timeline, wind, heading), gust, exposure_s, near, max(far, near))
    streaks = fall(timeline, frames.shape, world)
    radius = 0.5 * min(frames.shape[1:3]) * size * (0.6 + 0.8 * streaks.luck) / streaks.depth
    fading = opacity * np.sqrt(near / streaks.depth)  # far drops dissolve in the veil
    layer = draw(frames.shape, streaks, radius, np.maximum(0.7 * radius, 1), fading)
    if sheets:
        _add_sheets(layer, timeline, world.wind, sheets)
    blend(frames, layer, 220)
    return layer


def _add_sheets(layer: np.ndarray, timeline: Timeline, wind: float, sheets: float) -> None:
    """Curtains of distant rain that the wind carries past, over and between the streaks."""
    height, width = layer.shape[1:]
    field = drifting_field(timeline.rng(), timeline.seconds, height, width, drift=abs(wind) / 6, scale=0.8, stretch=0.4)
    curtain = enlarge(np.rint(255 * sheets * (0.5 + 0.35 * field).clip(0, 1)).astype(np.uint8), height, width)
    np.maximum(layer, curtain, out=layer)


def _blown(timeline: Timeline, wind: float, heading: float) -> float:
    """Wind with its sign."""
    drawn = 1 if timeline.rng().bit_generator.random_raw() & 1 else -1
    return wind * (np.sign(heading) or drawn)


def _lightning(timeline: Timeline, per_second: float) -> np.ndarray:
    """(n,) in [0, 1]: light of strikes, each a flash and a weaker second one within a third of a second."""
    rng = timeline.rng()
    rng.random(64)
    gaps = rng.exponential(1, 256) / max(per_second, 1e-9)
    strikes = np.cumsum(gaps)
    if timeline.seconds.size and timeline.seconds.max() > strikes[-1]:
        strikes = np.concatenate([strikes + lap * strikes[-1] for lap in range(int(timeline.seconds.max() // strikes[-1]) + 1)])
    since = timeline.seconds[:, None] - strikes
    light = np.where(since >= 0, np.exp(-since.clip(0) / 0.05), 0)
    again = np.where(since >= 0.16, 0.6 * np.exp(-(since - 0.16).clip(0) / 0.06), 0)
    return np.rint((light + again).max(axis=1, initial=0).clip(0, 1) * 64) / 64
