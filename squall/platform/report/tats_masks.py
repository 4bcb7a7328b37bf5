"""Masks that samplers draw over held-out clips: what a run directory keeps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from squall.platform.runs import to_json
from squall.platform.video import replacing

MASKS_FILE = "masks.safetensors"
_ARRAYS = ("clip", "visible", "probabilities", "motion")


@dataclass(frozen=True, slots=True)
class MaskExample:
    """A held-out clip, and what a sampler shows of it. N tokens are numbered time first, then rows, then columns."""

    clip: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    visible: np.ndarray
    """bool (samples, N): masks that were drawn for it."""
    probabilities: np.ndarray | None
    """float (N,), of one draw; None for a sampler that knows none."""
    motion: np.ndarray | None
    """bool (N,): tokens on true motion; None where that is not known."""
    arm: str
    seed: int
    part: str
    """`still`, `pan` or `data`."""
    number: int
    """Position in the part: the same clip of several arms stands side by side."""
    tubelet: int
    """Frames of a token."""
    patch: int
    """Pixels of its side."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens as (times, rows, columns)."""
        frames, height, width, _ = self.clip.shape
        return frames // self.tubelet, height // self.patch, width // self.patch


def write_masks(folder: Path, examples: Sequence[MaskExample]) -> None:
    """Keep examples in a folder, in place of those that were kept before; without any there is no file."""
    from safetensors.numpy import save_file

    path = folder / MASKS_FILE
    if not examples:
        path.unlink(missing_ok=True)
        return
    arrays = {f"{number}/{name}": np.ascontiguousarray(values) for number, one in enumerate(examples)
              for name in _ARRAYS if (values := getattr(one, name)) is not None}
    words = [{field.name: getattr(one, field.name) for field in fields(one) if field.name not in _ARRAYS} for one in examples]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(arrays, temporary, {"masks": to_json(words)})


def read_masks(folder: Path) -> list[MaskExample]:
    """What a folder keeps; none where the file is gone or damaged, since they are pictures alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / MASKS_FILE, "numpy") as file:
            names = set(file.keys())
            return [MaskExample(**{name: file.get_tensor(key) if (key := f"{number}/{name}") in names else None
                                   for name in _ARRAYS}, **words)
                    for number, words in enumerate(json.loads(file.metadata()["masks"]))]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return []
