"""Clips whose true motion is known by construction: shapes that move over static texture, or over a global pan.

Footage is one real frame under a virtual camera that stands or pans, so that a token is on true motion where a shape covers it,
and nowhere else. What a camera's pan moves is no true motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.embedded.scenes import COLOURS, DIRECTIONS, SHAPES, Sprite, background, draw_sprites
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed

Camera = Literal["still", "pan"]
Surface = Literal["plain", "textured"]
COVERED = 0.15
"""A token is on motion where shapes cover at least this share of its pixels."""


@dataclass(frozen=True, slots=True)
class MotionClip:
    """A clip, and where it truly moves."""

    frames: np.ndarray
    """uint8 (T, side, side, 3)."""
    tokens: np.ndarray
    """bool (N,): tokens on true motion."""
    direction: str
    """Where the first shape goes: left, right, up or down."""


def motion_clip(grid: TokenGrid, seed: int, camera: Camera = "still", surface: Surface = "plain", objects: int = 1,
                split: str = "train", radius: tuple[float, float] = (0.10, 0.16)) -> MotionClip:
    """Draw a clip, a function of its arguments.

    Args:
        camera: `still` is static texture, `pan` moves all of it sideways.
        surface: shapes of one colour, or with a texture of their own that goes with them: nothing but motion tells those apart.
        objects: shapes, each on a straight path that is in the middle of the clip near the middle of the frame.
        split: of the footage: `train`, `validation` or `test`.
        radius: range of a shape's size, in sides of the frame.

    Raises:
        ConfigError: frames are not square RGB.
    """
    if grid.height != grid.width or grid.channels != 3:
        raise ConfigError(f"clips of known motion are square and RGB, not {grid.height}x{grid.width} of {grid.channels} "
                          "channels")
    rng = np.random.default_rng(derive_seed(seed, "motion clip"))
    scene = background(split, camera, grid.frames, grid.height, rng, frozen=True)
    names = [str(rng.choice(list(DIRECTIONS))) for _ in range(objects)]
    sprites = [_sprite(name, grid.frames, radius, rng) for name in names]
    cover = coverage(sprites, grid.frames, grid.height)
    frames = draw_sprites(scene, sprites) if surface == "plain" else _textured(scene, sprites, split, rng)
    return MotionClip(frames, on_motion(cover, grid), names[0])


def coverage(sprites: Sequence[Sprite], frames: int, side: int) -> np.ndarray:
    """Share of every pixel that shapes cover, outlines included, float32 (T, side, side) in [0, 1]."""
    dark, light = (draw_sprites(np.full((frames, side, side, 3), value, np.uint8), list(sprites)) for value in (0, 255))
    return 1 - (light.astype(np.float32) - dark)[..., 0] / 255


def on_motion(cover: np.ndarray, grid: TokenGrid, least: float = COVERED) -> np.ndarray:
    """Tokens, bool (N,), of which at least a share `least` is covered; `cover` is (T, H, W) in [0, 1]."""
    parts = cover.reshape(grid.times, grid.tubelet, grid.rows, grid.patch, grid.columns, grid.patch)
    return (parts.mean((1, 3, 5)) >= least).ravel()


def share_on_motion(chosen: np.ndarray, motion: np.ndarray) -> tuple[float, float]:
    """Share of chosen tokens that are on true motion, and chance, which is the share of all tokens that are.

    Args:
        chosen: int (B, K).
        motion: bool (B, N).
    """
    return float(np.take_along_axis(motion, chosen, 1).mean()), float(motion.mean())


def _sprite(direction: str, frames: int, radius: tuple[float, float], rng: np.random.Generator) -> Sprite:
    heading = np.array(DIRECTIONS[direction])
    travel = float(rng.uniform(0.45, 0.65))
    middle = rng.uniform(0.35, 0.65, 2)
    step = heading * travel / max(1, frames - 1)
    start = middle - heading * travel / 2
    return Sprite(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), float(rng.uniform(*radius)),
                  (float(start[0]), float(start[1])), (float(step[0]), float(step[1])))


def _textured(scene: np.ndarray, sprites: Sequence[Sprite], split: str, rng: np.random.Generator) -> np.ndarray:
    """Other footage, seen through each shape, that goes with it."""
    count, side = scene.shape[:2]
    for sprite in sprites:
        still = background(split, "still", 1, side, rng, frozen=True)[0]
        moves = [np.rint(time * side * np.array(sprite.step)).astype(int) for time in range(count)]
        moved = np.stack([np.roll(still, (y, x), (0, 1)) for x, y in moves]).astype(np.float32)
        scene = scene + coverage([sprite], count, side)[..., None] * (moved - scene)
    return scene.round().astype(np.uint8)
