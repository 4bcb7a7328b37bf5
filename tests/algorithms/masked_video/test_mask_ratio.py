"""The mask ratio: fixed, adaptive, and ends that leave nothing."""

from __future__ import annotations

import pytest

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.mask_ratio import MaskRatio, MaskRatioConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError

ADAPTIVE = {"lowest": 0.8, "highest": 0.95, "target_loss": 0.5, "gain": 0.1}


def test_a_fixed_ratio_stays() -> None:
    ratio = MaskRatio(MaskRatioConfig(ratio=0.85))
    ratio.update(0.0)
    assert ratio.value == 0.85


def test_an_adaptive_one_rises_while_the_loss_is_low_and_keeps_within_its_ends() -> None:
    ratio = MaskRatio(MaskRatioConfig(ratio=0.9, adaptive=ADAPTIVE))
    ratio.update(0.3)
    assert ratio.value == pytest.approx(0.92)
    ratio.update(0.6)
    assert ratio.value == pytest.approx(0.91)
    for loss, end in ((0.0, 0.95), (9.0, 0.8)):
        for _ in range(9):
            ratio.update(loss)
        assert ratio.value == end


@pytest.mark.parametrize(("values", "message"), [
    ({"ratio": 0.7, "adaptive": ADAPTIVE}, "ratio 0.7 is not within adaptive.lowest 0.8 and adaptive.highest 0.95"),
    ({"adaptive": ADAPTIVE | {"lowest": 0.95}}, "lowest 0.95 must be below highest 0.95"),
    ({"ratio": 1.1}, "Input should be less than or equal to 1"),
])
def test_ratios_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(MaskRatioConfig, values, "tats")


def test_both_ends_must_leave_a_token() -> None:
    with pytest.raises(ConfigError, match="mask_ratio: a mask ratio of 0.95 leaves no visible token of 8"):
        MaskRatioConfig(ratio=0.85, adaptive=ADAPTIVE).check(TokenGrid(4, 32, 32))
