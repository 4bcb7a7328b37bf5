"""What every attack did to every clip, read from the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from squall.platform.errors import DataError

MEASURES = ("l2", "linf", "mean_abs", "ssim", "flicker", "cells", "frames")
_NUMBERS = ("label", "fooled", "queries", "removal_queries", *MEASURES)


@dataclass(frozen=True)
class Attempts:
    """One attack over the N clips of a run that were attacked at all, in S seeds. Arrays are (S, N)."""

    seeds: tuple[int, ...]
    known: np.ndarray
    """bool: the attack came to its end, and has a row."""
    values: Mapping[str, np.ndarray]
    """float, by column; 0 where nothing is known."""
    shown: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Of other victims: bool, whether it was shown a clip that fools and is right about the clean one, and whether it was
    fooled too."""

    @property
    def whole(self) -> np.ndarray:
        """bool (N,): clips of which all seeds are known; figures are over these."""
        return self.known.all(0) if self.seeds else np.zeros(self.known.shape[1], bool)

    @property
    def fooled(self) -> np.ndarray:
        """bool."""
        return self.values["fooled"] > 0

    def spent(self, budget: int) -> np.ndarray:
        """Queries until the flip; where none came, the budget."""
        return np.where(self.fooled, self.values["queries"], budget)


def read_attempts(table: pa.Table, attacks: Sequence[str]) -> dict[str, Attempts]:
    """What is known of these attacks, in their order.

    Args:
        table: rows as in `VIDEO_ATTACKS`, in any order.

    Raises:
        DataError: a row is there twice (reason ``double_rows``) or is of another attack (``unknown_attack``).
    """
    names = np.array(table["attack"].to_pylist(), object)
    seeds, clips = (table[name].to_numpy() for name in ("seed", "clip"))
    if others := sorted(set(names) - set(attacks)):
        raise DataError(f"the rows hold an attack '{others[0]}' that the run has not; it has {', '.join(attacks)}",
                        reason="unknown_attack")
    triples = list(zip(names, seeds.tolist(), clips.tolist(), strict=True))
    if len(set(triples)) < len(triples):
        double = next(triple for triple in sorted(triples) if triples.count(triple) > 1)
        raise DataError("attack '{}' with seed {} has two rows for clip {}".format(*double), reason="double_rows")
    everything = np.unique(clips)
    return {name: _attempts(table.filter(pa.array(names == name)), everything) for name in attacks}


def _attempts(table: pa.Table, clips: np.ndarray) -> Attempts:
    seeds = np.unique(table["seed"].to_numpy())
    place = np.searchsorted(seeds, table["seed"].to_numpy()), np.searchsorted(clips, table["clip"].to_numpy())

    def spread(values: np.ndarray, kind: type) -> np.ndarray:
        placed = np.zeros((len(seeds), len(clips)), kind)
        placed[place] = values
        return placed

    columns = {name: np.array(table[name].to_pylist(), np.float64) for name in _NUMBERS}
    shown = {victim: (spread(right, bool), spread(fell, bool)) for victim, (right, fell) in _shown(table).items()}
    return Attempts(tuple(map(int, seeds)), spread(np.ones(table.num_rows, bool), bool),
                    {name: spread(values, np.float64) for name, values in columns.items()}, shown)


def _shown(table: pa.Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By other victim, bool for each row: right about a clean clip whose attacked one it was shown, and fooled by that."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    columns = (table[name].to_pylist() for name in ("label", "fooled", "seen_by", "seen_clean", "seen_attacked"))
    for row, (label, fooled, victims, clean, attacked) in enumerate(zip(*columns, strict=True)):
        for victim, before, after in zip(victims or (), clean or (), attacked or (), strict=True):
            right, fell = found.setdefault(victim, (np.zeros(table.num_rows, bool), np.zeros(table.num_rows, bool)))
            right[row] = fooled and before == label
            fell[row] = right[row] and after != label
    return found
