"""The loss around an image as a heat map, with the line at which the model's answer changes."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from squall.platform.errors import DataError
from squall.platform.report.attack_subjects import Subject, measure

SIDE, EDGE = 240, 34
"""Of the square, and what is left of it for the labels, in units of the drawing."""
MOST = 20.0
"""Nats. Larger losses have the last colour."""
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis, from low to high."""
CROSSINGS: Mapping[int, tuple[tuple[str, str], ...]] = {
    1: (("left", "top"),), 2: (("top", "right"),), 3: (("left", "right"),), 4: (("right", "bottom"),),
    5: (("left", "top"), ("right", "bottom")), 6: (("top", "bottom"),), 7: (("left", "bottom"),),
    8: (("left", "bottom"),), 9: (("top", "bottom"),), 10: (("top", "right"), ("left", "bottom")),
    11: (("right", "bottom"),), 12: (("left", "right"),), 13: (("top", "right"),), 14: (("left", "top"),)}
"""Marching squares: which sides of a cell the contour joins, by the corners that are right (1, 2, 4, 8 clockwise)."""


@dataclass(frozen=True, slots=True)
class Landscape:
    """One heat map, as the template draws it."""

    title: str
    picture: str
    """PNG as a data URI, first row on top."""
    contour: str
    """Path data of the line between right and wrong."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    origin: tuple[float, float]
    figures: str
    text: str


def landscapes(folder: Path, found: Sequence[Subject]) -> tuple[list[Landscape], float, list[str]]:
    """Every model's landscape, the loss of their last colour, and a sentence for each that could not be read."""
    records, problems = [], []
    for subject in found:
        for model in subject.models:
            if model.landscape is None:
                continue
            try:
                records.append((model.name, read_landscape(folder, model.landscape)))
            except DataError as error:
                problems.append(f"The loss landscape of {model.name} is not shown: {error}.")
    top = min(MOST, max((float(np.nanmax(record["loss"])) for _, record in records), default=1.0)) or 1.0
    return [_draw(name, record, top) for name, record in records], top, problems


def read_landscape(folder: Path, name: str) -> dict[str, Any]:
    """A landscape with its axes in units of epsilon.

    The file is JSON: ``epsilon``; ``alphas`` (N,) along the attack's direction and ``betas`` (M,) along another, with pixels in
    [0, 1] as epsilon is; ``loss`` (N, M) in nats, null where it is unknown; ``correct`` (N, M); and, to be told beside the
    picture, ``roughness``, ``plateau`` and ``wrong`` of `squall.algorithms.landscape.LandscapeRecord`.

    Raises:
        DataError: the file lies outside the folder, is not there or does not hold what it should (reason ``bad_landscape``).
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{name} lies outside the run folder", reason="bad_landscape")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        epsilon = float(record["epsilon"])
        alphas, betas = (np.asarray(record[key], float) / (epsilon or math.nan) for key in ("alphas", "betas"))
        loss, correct = np.asarray(record["loss"], float), np.asarray(record["correct"], bool)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror})", reason="bad_landscape") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name} is no landscape: {error}", reason="bad_landscape") from error
    if not (np.isfinite(alphas).all() and np.isfinite(betas).all() and np.isfinite(loss).any()):
        raise DataError(f"{name}: epsilon {epsilon:g}, alphas, betas and some loss should be finite, epsilon above 0",
                        reason="bad_landscape")
    if loss.shape != (len(alphas), len(betas)) or correct.shape != loss.shape or min(loss.shape) < 2:
        raise DataError(f"{name}: loss {loss.shape} and correct {correct.shape} should be {(len(alphas), len(betas))}, "
                        f"at least 2 x 2", reason="bad_landscape")
    return {"alphas": alphas, "betas": betas, "loss": loss, "correct": correct, "figures": _figures(record)}


def _draw(name: str, record: Mapping[str, Any], top: float) -> Landscape:
    """Alpha, the attack's direction, runs to the right and beta upwards."""
    loss, correct = record["loss"].T[::-1], record["correct"].T[::-1]
    xs, ys = _places(record["alphas"]), _places(record["betas"])
    wrong = float(1 - correct.mean())
    return Landscape(
        title=name, picture=_picture(loss, top), contour=contour(correct),
        x_ticks=tuple((EDGE + xs(mark), f"{mark:g}".replace("-", "−")) for mark in _marks(record["alphas"])),
        y_ticks=tuple((SIDE - ys(mark), f"{mark:g}".replace("-", "−")) for mark in _marks(record["betas"])),
        origin=(EDGE + xs(0.0), SIDE - ys(0.0)),
        figures=record["figures"],
        text=f"Loss around an image of {name}: {np.nanmin(loss):.2f} to {np.nanmax(loss):.2f} nats, wrong on "
             f"{100 * wrong:.0f} % of the square")


def _figures(record: Mapping[str, Any]) -> str:
    words = {"plateau": "flat", "wrong": "wrong"}
    shares = [f"{word} {100 * record[name]:.0f} %" for name, word in words.items() if name in record]
    return " · ".join(([f"roughness {measure(record['roughness'])} nats"] if "roughness" in record else []) + shares)


def _places(axis: np.ndarray):
    """Value to distance from the axis's start; a value stands in the middle of its cell."""
    cell = SIDE / len(axis)
    span = float(axis[-1] - axis[0]) or 1.0
    return lambda value: round(cell / 2 + (SIDE - cell) * (value - float(axis[0])) / span, 1)


def _marks(axis: np.ndarray) -> list[float]:
    low, high = math.ceil(float(axis.min()) - 1e-6), math.floor(float(axis.max()) + 1e-6)
    return [float(mark) for mark in range(low, high + 1, max(1, (high - low) // 6))] if high > low else \
        [float(axis[0]), float(axis[-1])]


def _picture(loss: np.ndarray, top: float) -> str:
    share = np.clip(np.nan_to_num(loss / top, nan=0.0), 0.0, 1.0) * (len(RAMP) - 1)
    pixels = np.stack([np.interp(share, range(len(RAMP)), [colour[band] for colour in RAMP]) for band in range(3)], -1)
    opaque = np.where(np.isfinite(loss), 255, 0)[..., None]
    data = io.BytesIO()
    Image.fromarray(np.concatenate([pixels.round(), opaque], -1).astype(np.uint8), "RGBA").save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def contour(correct: np.ndarray) -> str:
    """Path data of the line between right and wrong of a boolean (rows, columns) over the square, its first row on top."""
    rows, columns = correct.shape
    high, wide = SIDE / rows, SIDE / columns
    kinds = correct[:-1, :-1] * 1 + correct[:-1, 1:] * 2 + correct[1:, 1:] * 4 + correct[1:, :-1] * 8
    parts = []
    for row, column in zip(*np.nonzero((kinds > 0) & (kinds < 15)), strict=True):
        x, y = EDGE + (column + 0.5) * wide, (row + 0.5) * high
        sides = {"left": (x, y + high / 2), "right": (x + wide, y + high / 2), "top": (x + wide / 2, y),
                 "bottom": (x + wide / 2, y + high)}
        parts += ["M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*sides[first], *sides[second])
                  for first, second in CROSSINGS[int(kinds[row, column])]]
    return "".join(parts)
