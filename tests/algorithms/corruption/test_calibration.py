"""The table that makes severities comparable."""

from __future__ import annotations

import pytest

from squall.algorithms.corruption import CALIBRATION, KINDS
from squall.algorithms.corruption.calibration import TABLE, intensity_at


def test_the_calibration_table_is_monotone_and_covers_every_kind():
    assert set(TABLE) == set(KINDS)
    for kind, knots in TABLE.items():
        assert knots[0] == 0 and knots[-1] <= 1 and all(a < b for a, b in zip(knots, knots[1:], strict=False)), kind
    assert intensity_at("fog", 0.35, 0) == 0.35 and intensity_at("unknown", 0.35, CALIBRATION) == 0.35
    middle = (TABLE["fog"][3] + TABLE["fog"][4]) / 2
    assert intensity_at("fog", 0.35, CALIBRATION) == pytest.approx(middle)
