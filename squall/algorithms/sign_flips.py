"""Sign-flip test of paired differences: exact where they are whole numbers, as McNemar's is for single answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

EXACT_STEPS = 200_000_000
"""Additions up to which the exact distribution is computed, some 0.2 s."""
BLOCK = 1_000_000
"""Signs that are drawn at once."""


def sign_flip(differences: ArrayLike, draws: int = 100_000, seed: int = 0) -> float:
    """Two-sided p-value in (0, 1] of n differences, shape (n,), whose mean is 0 under the null.

    Under the null both sides of a pair may change places, so that every difference has either sign with chance one half;
    the p-value is the chance that their sum lies as far from 0 as it does (Fisher 1935, section 21). For whole numbers the
    chances are computed one difference after another (Pagano and Tritchler 1983); for 0 and +-1 this is the exact McNemar
    test. For others, and where that would take too long, signs are drawn, and the p-value is ``(1 + k) / (1 + draws)`` for k
    draws that lie as far out (Phipson and Smyth 2010).

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"sign_flip: finite differences of shape (n,), n >= 1, needed; got shape {values.shape}")
    values = values[values != 0]
    if not len(values):
        return 1.0
    sizes, total = np.abs(values), abs(float(values.sum()))
    whole = np.rint(sizes)
    if np.array_equal(whole, sizes) and whole.sum() < EXACT_STEPS:
        units = whole.astype(np.int64) // np.gcd.reduce(whole.astype(np.int64))
        if int(units.sum()) * len(units) <= EXACT_STEPS:
            return _exact(units, round(total * units.sum() / whole.sum()))
    return _drawn(sizes, total, draws, np.random.default_rng(seed))


def _exact(sizes: np.ndarray, total: int) -> float:
    chances = np.ones(1)  # of the sums of the sizes whose sign is positive, from 0 on
    for size in map(int, np.sort(sizes)):
        longer = np.zeros(len(chances) + size)
        longer[:len(chances)] = chances / 2
        longer[size:] += chances / 2
        chances = longer
    sums = np.abs(2 * np.arange(len(chances)) - int(sizes.sum()))
    return float(min(1.0, max(chances[sums >= total].sum(), np.finfo(float).tiny)))


def _drawn(sizes: np.ndarray, total: float, draws: int, rng: np.random.Generator) -> float:
    farther, limit = 0, total * (1 - 1e-9)
    block = max(1, BLOCK // len(sizes))
    for start in range(0, draws, block):
        signs = 2.0 * rng.integers(0, 2, (min(block, draws - start), len(sizes))) - 1
        farther += int((np.abs(signs @ sizes) >= limit).sum())
    return (1 + farther) / (1 + draws)
