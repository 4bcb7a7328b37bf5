"""Clips and victims that all tests of controls share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def clip() -> np.ndarray:
    """Of 8 frames of 16x16, away from the ends of the range: the grid of blocks of 2 and cells of 4 has 4 x 4 x 4 cells."""
    return np.random.default_rng(0).integers(80, 170, (8, 16, 16, 3)).astype(np.uint8)
