"""What does not go together in a choice of clips is refused."""

from __future__ import annotations

from typing import Any

import pytest

from squall.platform.clip_data import TatsDataConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError


@pytest.mark.parametrize(("values", "message"), [
    ({"path": "x"}, "format embedded takes no path"),
    ({"format": "ucf101"}, "format ucf101 needs path"),
    ({"format": "kinetics", "path": "x", "classes": ["drum"]}, "classes: format kinetics takes a file with the names, got"),
    ({"fold": 2}, "fold belongs to format ucf101 or hmdb51, and format is embedded"),
    ({"format": "ucf101", "path": "x", "bad_lines": "drop"}, "bad_lines belongs to format list"),
    ({"motion": {"radius": [0.3, 0.2]}}, "expected 0 < least <= greatest < 0.5"),
    ({"views": {"area": [0.5, 1.5]}}, "expected 0 < least <= greatest <= 1"),
    ({"views": {"aspect": [0, 1]}}, "expected 0 < least <= greatest"),
])
def test_what_does_not_go_together_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(TatsDataConfig, values, "data")


def test_left_and_right_are_kept_apart_where_they_are_classes() -> None:
    moves = {"format": "somethingsomething", "path": "x"}
    assert not TatsDataConfig(**moves).views.flip and TatsDataConfig(format="ucf101", path="x").views.flip
    views = TatsDataConfig(**moves, views={"stride": 2}).views
    assert (views.stride, views.flip) == (2, False)
    assert TatsDataConfig(**moves, views={"flip": True}).views.flip
