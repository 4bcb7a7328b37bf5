"""What every arm did with every held-out clip, read from the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from squall.platform.errors import DataError
from squall.platform.tats_card import PARTS, TATS_CLIPS

KEYS = ("arm", "seed", "part", "clip")
COLUMNS = tuple(name for name in TATS_CLIPS.names if name not in KEYS)


@dataclass(frozen=True)
class ArmRows:
    """One arm over the N held-out clips of a run, in S seeds."""

    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    """By column, float (S, N), NaN where it is not known."""

    def known(self, *columns: str) -> np.ndarray:
        """bool (N,): clips of which all seeds know these columns; figures are over them."""
        clips = next(iter(self.values.values())).shape[1]
        if not self.seeds:
            return np.zeros(clips, bool)
        return np.logical_and.reduce([np.isfinite(self.values[name]).all(0) for name in columns])

    def means(self, column: str) -> np.ndarray:
        """Of a clip over seeds, (N,), 0 where not all are known."""
        known = self.known(column)
        return np.where(known, np.where(known, self.values[column], 0.0).sum(0) / max(1, len(self.seeds)), 0.0)


@dataclass(frozen=True)
class HeldRows:
    """All arms on the same N clips, which are in the order of `PARTS`."""

    parts: np.ndarray
    """str (N,)."""
    arms: Mapping[str, ArmRows]

    def within(self, part: str | None) -> np.ndarray:
        """bool (N,): the clips of a part, or all."""
        return np.ones(len(self.parts), bool) if part is None else self.parts == part


def read_held(table: pa.Table, arms: Sequence[str]) -> HeldRows:
    """What is known of these arms, in their order.

    Args:
        table: rows as in `TATS_CLIPS`, in any order.

    Raises:
        DataError: a row is there twice (reason ``double_rows``), is of another arm (``unknown_arm``) or of no part that is
            known (``unknown_part``).
    """
    names, parts = (np.array(table[name].to_pylist(), object) for name in ("arm", "part"))
    seeds, clips = (table[name].to_numpy() for name in ("seed", "clip"))
    if others := sorted(set(names) - set(arms)):
        raise DataError(f"the rows hold an arm '{others[0]}' that the run has not; it has {', '.join(arms)}",
                        reason="unknown_arm")
    if others := sorted(set(parts) - set(PARTS)):
        raise DataError(f"the rows hold a part '{others[0]}'; there are {', '.join(PARTS)}", reason="unknown_part")
    keys = list(zip(names, seeds.tolist(), parts, clips.tolist(), strict=True))
    if len(set(keys)) < len(keys):
        double = next(key for place, key in enumerate(keys) if key in set(keys[:place]))
        arm, seed, part, clip = double
        raise DataError(f"arm '{arm}' with seed {seed} has two rows for clip {clip} of '{part}'", reason="double_rows")
    everything = sorted(set(zip(parts, clips.tolist(), strict=True)), key=lambda one: (PARTS.index(one[0]), one[1]))
    place = {one: number for number, one in enumerate(everything)}
    places = np.array([place[part, clip] for _, _, part, clip in keys], int)
    return HeldRows(np.array([part for part, _ in everything], object),
                    {arm: _arm(table, names == arm, seeds, places, len(everything)) for arm in arms})


def _arm(table: pa.Table, own: np.ndarray, seeds: np.ndarray, places: np.ndarray, clips: int) -> ArmRows:
    known = np.unique(seeds[own])
    where = np.searchsorted(known, seeds[own]), places[own]
    values = {}
    for name in COLUMNS:
        values[name] = np.full((len(known), clips), np.nan)
        values[name][where] = np.array(table[name].to_pylist(), np.float64)[own]
    return ArmRows(tuple(map(int, known)), values)
