"""The traces that ship with Squall, scored by hand: enough of them, told apart, and over the whole range."""

from __future__ import annotations

from collections import Counter

import pytest

from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.rubric_labels import LabelledTrace, RubricScores, load_labels


def test_the_labels_cover_every_rubric_from_useless_to_good() -> None:
    labels = load_labels()
    assert len(labels) >= 20 and len({label.trace.sample_id for label in labels}) == len(labels)
    assert len({label.trace.text for label in labels}) == len({label.reason for label in labels}) == len(labels)
    for name in RubricScores.model_fields:
        counts = Counter(getattr(label.scores, name) for label in labels)
        assert {0, 5} <= set(counts) and len(counts) >= 5 and max(counts.values()) < 0.5 * len(labels)
    for problem in {label.trace.problem for label in labels}:
        own = [label.trace for label in labels if label.trace.problem == problem]
        clean = own[0]
        assert clean.reference is None and len(own) >= 3
        assert {trace.reference for trace in own} - {None} and all("\n" not in trace.text for trace in own)


def test_a_label_that_is_out_of_range_or_without_a_reason_is_refused() -> None:
    row = load_labels()[0].model_dump()
    assert validate(LabelledTrace, row, "row") == load_labels()[0]
    with pytest.raises(ConfigError, match="'scores.belief' = 6"):
        validate(LabelledTrace, row | {"scores": row["scores"] | {"belief": 6}}, "row")
    with pytest.raises(ConfigError, match="'reason'"):
        validate(LabelledTrace, row | {"reason": ""}, "row")
