"""One severity for all kinds: how strongly each kind is rendered so that the same severity does comparable harm.

`calibration.json` is measured by `benchmarks/calibrate_corruption.py` on real clips; docs/corruption.md says how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np

_DATA = json.loads(files(__package__).joinpath("calibration.json").read_text(encoding="utf-8"))
CALIBRATION: int = _DATA["version"]
"""Version of the table that specs are made with."""
TABLE: Mapping[str, Sequence[float]] = _DATA["intensity"]
"""By kind: intensity at severity 0, 0.1, ..., 1. Kinds that are not in it are rendered at intensity = severity."""


def intensity_at(kind: str, severity: float, calibration: int) -> float:
    """Intensity in [0, 1] at which a kind is rendered; `calibration` 0 takes severity itself."""
    if calibration == 0 or kind not in TABLE:
        return severity
    knots = TABLE[kind]
    return float(np.interp(severity, np.linspace(0, 1, len(knots)), knots))
