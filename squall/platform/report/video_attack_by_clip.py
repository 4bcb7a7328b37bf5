"""Clip by clip: how soon each attack fools each clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SHADES = 6
"""Of clips that are fooled, from soon to just within the budget."""
STANDS = SHADES
"""Shade of a clip that no seed's attack fooled."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """An attack over all clips, in the order of `ByClip.clips`."""

    attack: str
    paths: tuple[tuple[int, str], ...]
    """(shade, squares of one unit, the first clip at 0)."""
    text: str


@dataclass(frozen=True, slots=True)
class ByClip:
    """All attacks over the clips, those that fall soonest first."""

    clips: int
    rows: tuple[ClipRow, ...]
    bounds: tuple[int, ...]
    """Most queries of each shade."""


def by_clip(table: pa.Table | None, attacks: Sequence[str], budget: int) -> ByClip | None:
    """Means over seeds, where a clip that stands counts the whole budget; None without rows."""
    if table is None or table.num_rows == 0 or not attacks:
        return None
    attack, clip = (np.asarray(table[name].to_pylist()) for name in ("attack", "clip"))
    fooled = table["fooled"].to_numpy(zero_copy_only=False).astype(bool)
    queries = np.where(fooled, np.minimum(table["queries"].to_numpy(), budget), budget).astype(float)
    clips, column = np.unique(clip, return_inverse=True)
    means, falls = np.full((len(attacks), len(clips)), np.nan), np.zeros((len(attacks), len(clips)), bool)
    for row, name in enumerate(attacks):
        own = attack == name
        asked = np.bincount(column[own], minlength=len(clips))
        with np.errstate(invalid="ignore"):
            means[row] = np.bincount(column[own], queries[own], len(clips)) / asked
        falls[row] = np.bincount(column[own], fooled[own], len(clips)) > 0
    order = np.argsort(np.nan_to_num(means, nan=budget).mean(0), kind="stable")
    rows = tuple(_row(name, means[row, order], falls[row, order], budget) for row, name in enumerate(attacks)
                 if np.isfinite(means[row]).any())
    return ByClip(len(clips), rows, tuple(round(budget ** ((shade + 1) / SHADES)) for shade in range(SHADES))) if rows else None


def _row(attack: str, means: np.ndarray, falls: np.ndarray, budget: int) -> ClipRow:
    shades = [None if math.isnan(mean) else shade_of(mean, budget) if fell else STANDS
              for mean, fell in zip(means, falls, strict=True)]
    paths = [(shade, "".join(f"M{clip} 0h1v1h-1z" for clip, own in enumerate(shades) if own == shade))
             for shade in range(SHADES + 1) if shade in shades]
    return ClipRow(attack, tuple(paths), f"{attack}: {int(falls.sum())} of {int(np.isfinite(means).sum())} clips fooled")


def shade_of(queries: float, budget: int) -> int:
    """From 0 for clips that fall at once to `SHADES` - 1, in equal ratios of queries."""
    return min(int(SHADES * math.log(max(queries, 1.0)) / math.log(max(budget, 2))), SHADES - 1)
