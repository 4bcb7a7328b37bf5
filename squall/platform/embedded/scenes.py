"""Scenes of the embedded data set: crops of real footage under a moving virtual camera, with shapes moving over them.

Every scene is a function of one seed. Frames are uint8 RGB, shape (T, size, size, 3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

FOOTAGE = Path(__file__).parent / "footage"
SPLITS = {
    "train": ("bunny_train", "birds"),
    "validation": ("bunny_validation",),
    "test": ("city", "race_1906"),
}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "green": (40, 190, 60),
    "blue": (45, 80, 235),
    "yellow": (245, 220, 40),
    "purple": (160, 50, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
CAMERA_MOTIONS = ("pan", "tilt", "zoom", "roll", "still")
SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Sprite:
    """A coloured shape on a straight path; positions and radius in fractions of the frame side."""

    shape: str
    colour: str
    radius: float
    start: tuple[float, float]
    step: tuple[float, float]


@lru_cache(maxsize=8)
def load_footage(name: str) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """All frames of one shipped file, uint8 (N, 108, 192, 3), and its shots as half-open frame ranges."""
    capture = cv2.VideoCapture(str(FOOTAGE / f"{name}.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    capture.release()
    shots = json.loads((FOOTAGE / "shots.json").read_text(encoding="utf-8"))[name]
    return np.stack(frames), tuple((start, stop) for start, stop in shots)


def background(split: str, camera: str, frame_count: int, size: int, rng: np.random.Generator,
               frozen: bool = False) -> np.ndarray:
    """Crop real frames of one shot with a virtual camera; returns uint8 (frame_count, size, size, 3).

    Args:
        frozen: hold one real frame, so that nothing but the virtual camera moves.
    """
    names = SPLITS[split]
    weights = np.array([len(load_footage(name)[1]) if split == "train" else 1.0 for name in names], dtype=float)
    frames, shots = load_footage(names[rng.choice(len(names), p=weights / weights.sum())])
    start, stop = shots[rng.integers(len(shots))]
    first = int(rng.integers(start, max(start + 1, stop - frame_count + 1)))
    indices = np.minimum(first + (0 if frozen else 1) * np.arange(frame_count), stop - 1)
    height, width = frames.shape[1:3]
    side = float(rng.uniform(56, 80))
    sides, centres = _camera_path(camera, frame_count, side, (width, height), rng)
    angles = _roll_angles(camera, frame_count, rng)
    clip = np.empty((frame_count, size, size, 3), np.uint8)
    for t, index in enumerate(indices):
        matrix = cv2.getRotationMatrix2D(tuple(map(float, centres[t])), float(angles[t]), size / float(sides[t]))
        matrix[:, 2] += size / 2 - centres[t]
        clip[t] = cv2.warpAffine(frames[index], matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return clip[:, :, ::-1].copy() if rng.random() < 0.5 else clip


def _camera_path(camera: str, count: int, side: float, area: tuple[int, int],
                 rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Side (T,) and centre (T, 2) of the crop in footage pixels; every motion runs one way or the other."""
    time = np.linspace(-0.5, 0.5, count) * rng.choice((-1.0, 1.0))
    zoom = float(rng.uniform(0.3, 0.5)) if camera == "zoom" else 0.0
    sides = side * np.exp(zoom * time)
    travel = float(rng.uniform(0.2, 0.4)) * side
    axis = {"pan": (1, 0), "tilt": (0, 1)}.get(camera, (0, 0))
    offsets = np.outer(time, np.array(axis) * travel)
    margin = sides.max() / 2 + np.abs(offsets).max(axis=0)
    low = np.minimum(margin, np.array(area) / 2)
    middle = rng.uniform(low, np.maximum(low, np.array(area) - low))
    return sides, middle + offsets


def _roll_angles(camera: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotation of each frame in degrees."""
    turn = float(rng.uniform(15, 35)) * rng.choice((-1.0, 1.0)) if camera == "roll" else 0.0
    return np.linspace(-0.5, 0.5, count) * turn


def draw_sprites(clip: np.ndarray, sprites: list[Sprite]) -> np.ndarray:
    """Draw anti-aliased shapes with a dark outline over a clip (T, S, S, 3); returns a new clip."""
    count, size = clip.shape[:2]
    big = size * SUPERSAMPLING
    drawn = np.empty_like(clip)
    for t in range(count):
        canvas = cv2.resize(clip[t], (big, big), interpolation=cv2.INTER_LINEAR)
        for sprite in sprites:
            centre = np.array(sprite.start) + t * np.array(sprite.step)
            _draw_shape(canvas, sprite, centre * big, sprite.radius * big)
        drawn[t] = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return drawn


def _draw_shape(canvas: np.ndarray, sprite: Sprite, centre: np.ndarray, radius: float) -> None:
    outline = (15, 15, 15)
    x, y = (round(float(value)) for value in centre)
    r = round(radius)
    if sprite.shape == "circle":
        cv2.circle(canvas, (x, y), r + 2, outline, -1)
        cv2.circle(canvas, (x, y), r, COLOURS[sprite.colour], -1)
    elif sprite.shape == "square":
        cv2.rectangle(canvas, (x - r - 2, y - r - 2), (x + r + 2, y + r + 2), outline, -1)
        cv2.rectangle(canvas, (x - r, y - r), (x + r, y + r), COLOURS[sprite.colour], -1)
    else:
        for grow, colour in ((4, outline), (0, COLOURS[sprite.colour])):
            s = r + grow
            corners = np.array([(x, y - s), (x - s, y + s), (x + s, y + s)], np.int32)
            cv2.fillPoly(canvas, [corners], colour)
