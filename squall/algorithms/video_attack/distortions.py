"""Distortions by name: what a cell that is switched on looks like.

A distortion is rendered once per clip and level, over the whole picture; cells then choose between clean and distorted pixels.
Randomness follows from the seed alone, so that levels differ in strength and not in pattern. Names are those of this file, any
kind of the corruption engine, with parameters and composed as `parse_spec` reads them (``heavy_rain wind=2``,
``night + snow``), or a user's own ``module:function``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np

from squall.algorithms.corruption import KINDS, frame_map, parse_spec, render
from squall.algorithms.corruption.registry import LEARNED
from squall.platform.errors import ConfigError, nearest
from squall.platform.records import CorruptionSpec

Filter: TypeAlias = Callable[[np.ndarray, float, int], np.ndarray]
"""A uint8 clip (T, H, W, 3), a severity in (0, 1] and a seed; returns a new clip of that shape."""


@dataclass(frozen=True)
class Distortion:
    """A named filter."""

    name: str
    function: Filter

    def distorted(self, clip: np.ndarray, seed: int, severity: float = 1.0) -> np.ndarray:
        """The whole clip (T, H, W, 3), distorted; uint8.

        Raises:
            ConfigError: the distortion takes frames away.
            DataError: a user's function failed.
        """
        result = self.function(clip, severity, seed)
        if result.shape != clip.shape:
            raise ConfigError(f"distortion '{self.name}' makes {len(result)} frames of {len(clip)}; choose one that keeps their"
                              " number")
        return result

    def levels(self, clip: np.ndarray, seed: int, count: int, severity: float) -> np.ndarray:
        """Uint8 (count + 1, T, H, W, 3): the clean clip, and then levels 1 to `count`, level n at severity * n / count."""
        return np.stack([clip, *(self.distorted(clip, seed, severity * level / count) for level in range(1, count + 1))])


def gaussian_noise(clip: np.ndarray, severity: float, seed: int) -> np.ndarray:
    """Gaussian noise with a deviation of 128 * severity grey levels, the same in every frame; the kind `noise` changes."""
    grain = np.random.default_rng(seed).standard_normal(clip.shape[1:], np.float32) * np.float32(128 * severity)
    return np.rint(clip + grain).clip(0, 255).astype(np.uint8)


def blur(clip: np.ndarray, severity: float, seed: int) -> np.ndarray:
    """Gaussian blur with a deviation of 0.06 * severity shorter sides of the picture."""
    deviation = 0.06 * severity * min(clip.shape[1:3])
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in clip])


def dead_pixel(clip: np.ndarray, severity: float, seed: int) -> np.ndarray:
    """Half of the pixels times severity are black, the same in every frame."""
    dead = np.random.default_rng(seed).random(clip.shape[1:3]) < 0.5 * severity
    return np.where(dead[..., None], np.uint8(0), clip)


def brightness(clip: np.ndarray, severity: float, seed: int) -> np.ndarray:
    """Every value is 160 * severity grey levels higher, and at most 255."""
    return cv2.add(clip, np.full_like(clip, round(160 * severity)))


def jpeg(clip: np.ndarray, severity: float, seed: int) -> np.ndarray:
    """Every frame is compressed by JPEG, of quality 95 - 92 * severity."""
    options = [cv2.IMWRITE_JPEG_QUALITY, round(95 - 92 * severity)]
    return np.stack([_jpeg(frame, options) for frame in clip])


DISTORTIONS: Mapping[str, Distortion] = MappingProxyType({
    function.__name__: Distortion(function.__name__, function)
    for function in (gaussian_noise, blur, dead_pixel, brightness, jpeg)})
"""The distortions of this file by name."""


def find_distortion(name: str) -> Distortion:
    """The distortion of a name.

    Raises:
        ConfigError: there is none, it takes frames away, or the text states the severity or the seed, which are the attack's.
    """
    if name in DISTORTIONS:
        return DISTORTIONS[name]
    kind = (name.split() or [""])[0]
    if ":" not in kind and kind not in KINDS:
        known = (*DISTORTIONS, *KINDS)
        raise ConfigError(f"unknown distortion '{name}'.{nearest(kind, known)} Allowed: {', '.join(known)}, or module:function")
    _check_kind(name)
    return Distortion(name, lambda clip, severity, seed: render(clip, parse_spec(name, severity=severity, seed=seed)))


def _check_kind(name: str) -> None:
    if LEARNED in name:
        raise ConfigError(f"distortion '{name}': attackers choose cells, so what they distort them with cannot be attackers'"
                          " own; choose another kind")
    frames = 16
    for one, other in zip(_members(name, 0.5, 0), _members(name, 0.25, 1), strict=True):
        if one.severity == other.severity or one.seed == other.seed:
            raise ConfigError(f"distortion '{name}': leave severity and seed out; the attack sets them")
        shown = frame_map(one, frames)
        if shown is not None and len(shown.source) != frames:
            raise ConfigError(f"distortion '{name}': {one.kind} takes frames away; choose one that keeps their number")


def _members(name: str, severity: float, seed: int) -> tuple[CorruptionSpec, ...]:
    spec = parse_spec(name, severity=severity, seed=seed)
    return spec, *spec.then


def _jpeg(frame: np.ndarray, options: list[int]) -> np.ndarray:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    return cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
