"""Questions of the embedded data set, one function per type: draw the scene, know the answer by construction.

`colour`, `count` and `camera` are the types that the shipped policy learns to see; `direction`, `place` and `shape` are
harder for a model of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from squall.platform.embedded.scenes import (
    CAMERA_MOTIONS,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Sprite,
    background,
    draw_sprites,
)

LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Question:
    """A clip and what is asked about it. `frames` is uint8 (T, size, size, 3)."""

    kind: str
    frames: np.ndarray
    problem: str
    options: tuple[str, ...]
    letter: str
    answer: str


Maker = Callable[[str, int, int, np.random.Generator], tuple[np.ndarray, str, str, tuple[str, ...]]]


def make_question(kind: str, split: str, frame_count: int, size: int, seed: int) -> Question:
    """Draw one question of a type (a key of `QUESTION_TYPES`) on footage of a split, from one seed."""
    rng = np.random.default_rng(seed)
    frames, problem, answer, wrong = QUESTION_TYPES[kind](split, frame_count, size, rng)
    choices = [answer, *rng.choice(np.array([w for w in wrong if w != answer]), size=3, replace=False).tolist()]
    order = rng.permutation(4)
    options = tuple(f"{LETTERS[i]}. {choices[j]}" for i, j in enumerate(order))
    return Question(kind, frames, problem, options, LETTERS[int(np.flatnonzero(order == 0)[0])], answer)


def _colour(split: str, count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    sprite = _random_sprite(rng, radius=(0.10, 0.17))
    clip = draw_sprites(_calm_background(split, count, size, rng), [sprite])
    return clip, "What colour is the moving shape?", sprite.colour, tuple(COLOURS)


def _count(split: str, count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    number = int(rng.integers(1, 5))
    cells = rng.permutation(4)[:number]
    sprites = []
    for cell in cells:
        start = np.array([cell % 2, cell // 2]) * 0.5 + 0.25 + rng.uniform(-0.06, 0.06, 2)
        step = rng.uniform(-0.012, 0.012, 2)
        sprites.append(Sprite(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), float(rng.uniform(0.09, 0.12)),
                              (float(start[0]), float(start[1])), (float(step[0]), float(step[1]))))
    clip = draw_sprites(_calm_background(split, count, size, rng), sprites)
    return clip, "How many shapes are moving?", str(number), ("1", "2", "3", "4")


def _camera(split: str, count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    motion = str(rng.choice(CAMERA_MOTIONS))
    return background(split, motion, count, size, rng, frozen=True), "How does the camera move?", motion, CAMERA_MOTIONS


def _direction(split: str, count: int, size: int,
               rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    name = str(rng.choice(list(DIRECTIONS)))
    sprite = _random_sprite(rng, radius=(0.11, 0.17), direction=name)
    clip = draw_sprites(_calm_background(split, count, size, rng), [sprite])
    return clip, "Which way does the shape move?", name, tuple(DIRECTIONS)


def _place(split: str, count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    places = ("top left", "top right", "bottom left", "bottom right")
    index = int(rng.integers(4))
    end = np.array([index % 2, index // 2]) * 0.5 + 0.25
    start = end + rng.uniform(-0.2, 0.2, 2)
    step = (end - start) / max(1, count - 1)
    sprite = Sprite(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), 0.13,
                    (float(start[0]), float(start[1])), (float(step[0]), float(step[1])))
    clip = draw_sprites(_calm_background(split, count, size, rng), [sprite])
    return clip, "Where is the shape at the end?", places[index], places


def _shape(split: str, count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str, str, tuple[str, ...]]:
    sprite = _random_sprite(rng, radius=(0.14, 0.20))
    clip = draw_sprites(_calm_background(split, count, size, rng), [sprite])
    return clip, "Which shape moves?", sprite.shape, (*SHAPES, "none")


QUESTION_TYPES: Mapping[str, Maker] = {
    "colour": _colour,
    "count": _count,
    "camera": _camera,
    "direction": _direction,
    "place": _place,
    "shape": _shape,
}


def _calm_background(split: str, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return background(split, "still", count, size, rng)


def _random_sprite(rng: np.random.Generator, radius: tuple[float, float], direction: str | None = None) -> Sprite:
    name = direction or str(rng.choice(list(DIRECTIONS)))
    heading = np.array(DIRECTIONS[name])
    speed = float(rng.uniform(0.04, 0.06))
    middle = rng.uniform(0.35, 0.65, 2)
    start = middle - heading * speed * 3.5
    return Sprite(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), float(rng.uniform(*radius)),
                  (float(start[0]), float(start[1])), (float(heading[0] * speed), float(heading[1] * speed)))
