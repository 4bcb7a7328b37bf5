"""Reasoning traces, their scores by rubric, and the traces that ship with Squall, scored by hand."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Literal

from pydantic import Field

from squall.platform.config import Config, validate

LABELS_FILE = "rubric_labels.json"
Score = Literal[0, 1, 2, 3, 4, 5]


class RubricScores(Config):
    """The five reasoning metrics that ROVA names (arXiv 2603.10652), each 0 to 5; squall.algorithms.rubrics defines them."""

    fragility: Score
    """Lower is better, here alone."""
    consistency: Score
    belief: Score
    recovery: Score
    attention: Score


class ReasoningTrace(Config):
    """What a model wrote before its answer, and what it was asked."""

    sample_id: str
    problem: str
    options: tuple[str, ...] = ()
    text: str
    """Reasoning and answer, as the model wrote them."""
    reference: str | None = None
    """What the same model wrote of the clean clip, where `text` is about a corrupted one."""


class LabelledTrace(Config):
    """A trace with the scores that a person gave it."""

    trace: ReasoningTrace
    scores: RubricScores
    reason: str = Field(min_length=1)
    """Why, in one line."""


def load_labels() -> tuple[LabelledTrace, ...]:
    """The traces that ship with Squall: written and scored by hand, about clean and corrupted clips, from good to useless."""
    rows = json.loads(files(__package__).joinpath(LABELS_FILE).read_text(encoding="utf-8"))
    return tuple(validate(LabelledTrace, row, where=f"{LABELS_FILE}: {number}") for number, row in enumerate(rows, 1))
