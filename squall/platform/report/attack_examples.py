"""Attacked images side by side: as they were, as the attack left them, and what it changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from squall.platform.report.attack_subjects import threat_text

FACTORS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100)
"""The difference is drawn this many times as large: the largest that keeps it within what grey leaves on either
side (`ROOM`)."""
ROOM = 0.51
SMALL_SIDE, LARGE_SIDE = 128, 320
"""Images up to the first stay at their own size and the browser enlarges them; larger ones are brought down to the second."""
MAX_FRAMES = 8


@dataclass(frozen=True, slots=True)
class AttackedImage:
    """An image or a clip, and what an attack made of it."""

    clean: np.ndarray
    """uint8 (H, W, C) or (T, H, W, C), C of 1 or 3."""
    adversarial: np.ndarray
    """The same shape: uint8, or float in [0, 1]."""
    label: str
    """Name of the right class."""
    prediction: str
    """Name of the class that the model gives the adversarial image; equal to `label` where the image stands."""
    attack: str
    norm: str
    epsilon: float
    model: str = ""


def example_cards(examples: Sequence[AttackedImage]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(heading, cards) of those that fell and those that stood."""
    groups = (("Fell", [one for one in examples if one.prediction != one.label]),
              ("Stood", [one for one in examples if one.prediction == one.label]))
    return [(heading, [_card(one) for one in own]) for heading, own in groups if own]


def amplified(clean: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, int]:
    """Grey plus the change times a factor, as uint8, and the factor. Both images float in [0, 1]."""
    change = adversarial - clean
    most = float(np.abs(change).max())
    factor = max((one for one in FACTORS if one * most <= ROOM), default=1) if most > 0 else 1
    return (np.clip(0.5 + factor * change, 0.0, 1.0) * 255).round().astype(np.uint8), factor


def _card(one: AttackedImage) -> dict[str, Any]:
    clean = np.asarray(one.clean, float) / 255
    adversarial = np.asarray(one.adversarial, float) / (255 if one.adversarial.dtype == np.uint8 else 1)
    difference, factor = amplified(clean, adversarial)
    pictures = [("as it is", one.label, one.clean), ("attacked", one.prediction, (adversarial * 255).round().astype(np.uint8)),
                (f"change × {factor}", "", difference)]
    side = max(one.clean.shape[-3:-1])
    return {"one": one, "clip": one.clean.ndim == 4, "threat": threat_text((one.norm, one.epsilon)),
            "small": side <= SMALL_SIDE, "length": float(np.linalg.norm(adversarial - clean)),
            "most": float(np.abs(adversarial - clean).max()),
            "pictures": [(caption, name, *_picture(np.asarray(pixels))) for caption, name, pixels in pictures]}


def _picture(pixels: np.ndarray) -> tuple[str, int, int]:
    """(data URI, width, height); the frames of a clip stand beside each other."""
    if pixels.ndim == 4:
        chosen = pixels[np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), MAX_FRAMES)).astype(int))]
        gap = np.full((chosen.shape[1], max(1, chosen.shape[2] // 40), chosen.shape[3]), 255, np.uint8)
        pixels = np.concatenate([part for frame in chosen for part in (frame, gap)][:-1], axis=1)
        limit = LARGE_SIDE * 3
    else:
        limit = LARGE_SIDE
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = min(1.0, limit / max(picture.size)) if max(pixels.shape[:2]) > SMALL_SIDE else 1.0
    if scale < 1.0:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode(), picture.width, picture.height
