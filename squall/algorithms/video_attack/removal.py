"""The removal sweep: which cells of a successful attack it can do without."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np


def removal_sweep(occupancy: np.ndarray, order: Sequence[int]) -> Generator[np.ndarray, bool, np.ndarray]:
    """Drop groups of cells, halving those that cannot go as a whole, down to single cells (as in delta debugging, Zeller 1999).

    Yields occupancies to try, is sent whether each still flips the victim, and returns what is left. Each needed cell costs at
    most about 2 log2(n) questions; a plain sweep asks about each of the n cells. Where dropping a cell never makes another one
    dispensable that was not, no cell that is left can go.

    Args:
        occupancy: (blocks, rows, columns), which flips.
        order: flat numbers of the cells that are on; neighbours are tried together.
    """
    kept = occupancy
    stands = {np.zeros_like(occupancy).tobytes()}
    groups = [list(order)]
    while groups:
        group = groups.pop()
        candidate = kept.copy()
        candidate.flat[group] = 0
        known = candidate.tobytes() in stands
        if not known and (yield candidate):
            kept = candidate
            continue
        stands.add(candidate.tobytes())
        if len(group) > 1:
            half = len(group) // 2
            groups += [group[half:], group[:half]]
    return kept
