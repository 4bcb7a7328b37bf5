"""The report card of a run's answers, and the comparison of two. Neither needs the model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from squall.algorithms.calibration import calibrate
from squall.algorithms.robustness import assess, contrast
from squall.algorithms.score_matrix import ScoreMatrix
from squall.jobs.evaluate_doubts import card_doubts, comparison_doubts
from squall.jobs.evaluate_matrix import answer_matrix
from squall.platform.errors import DataError
from squall.platform.report_card import CLEAN, Calibration, ComparisonCard, ReportCard

SEED = 0
"""Of the bootstrap: the same answers always give the same card."""


def build_card(answers: pa.Table, facts: Mapping[str, Any]) -> ReportCard:
    """Compute the card of a run.

    Args:
        answers: rows as in `ANSWERS`, in any order.
        facts: the fields of `ReportCard` that do not follow from the answers: name, model, data, asked, provenance, and where
            there are any reported, lost, reasoning, notes.

    Raises:
        DataError: there is no answer, one is there twice, or a score is missing or not in [0, 1].
    """
    found = answer_matrix(answers)
    assessment = assess(found.matrix, seed=SEED)
    card = ReportCard(
        **{**facts, "notes": (*facts.get("notes", ()), *_notes(found.matrix, [one.p_value for one in assessment.conditions]))},
        summary=assessment.summary, conditions=assessment.conditions, by_kind=assessment.by_kind,
        by_family=assessment.by_family, by_severity=assessment.by_severity, by_question_type=assessment.by_question_type,
        curves=assessment.curves,
        calibration_clean=_calibration(answers, clean=True), calibration_corrupted=_calibration(answers, clean=False))
    return card.model_copy(update={"unreliable": card_doubts(card, found, answers)})


def compare_cards(first: tuple[ReportCard, pa.Table], second: tuple[ReportCard, pa.Table]) -> ComparisonCard:
    """Compare two runs question by question, the second minus the first, over the questions and conditions that both have.

    Raises:
        DataError: they have no question or no condition in common (reason ``different_data``).
    """
    cards, tables = zip(first, second, strict=True)
    found = [answer_matrix(table) for table in tables]
    rows = _common([one.identities() for one in found])
    columns = _common([[condition.name for condition in one.matrix.conditions] for one in found])
    matrices = [one.matrix.select(*place) for one, *place in zip(found, rows, columns, strict=True)]
    both = matrices[0].answered & matrices[1].answered
    if not both.any():
        raise DataError(f"'{cards[0].name}' and '{cards[1].name}' have no answer to a common question in a common condition;"
                        " only runs over the same manifest can be compared", reason="different_data")
    contrasts = contrast(*matrices, seed=SEED)
    doubts, notes = comparison_doubts(cards, tables, found, matrices)
    return ComparisonCard(first=cards[0].name, second=cards[1].name, contrasts=contrasts, n=int(both.any(1).sum()),
                          unreliable=doubts, notes=(*notes, *_many_tests(contrast.p_value for contrast in contrasts)))


def _calibration(answers: pa.Table, clean: bool) -> Calibration | None:
    chosen = answers.filter(np.array([(condition == CLEAN) == clean for condition in answers["condition"].to_pylist()]))
    chosen = chosen.sort_by([(name, "ascending") for name in ("question", "condition", "index")])
    confidence = chosen["confidence"].to_numpy()  # null becomes NaN
    return calibrate(confidence, chosen["score"].to_numpy(), np.array(chosen["media"].to_pylist()), seed=SEED)


def _common(keys: Sequence[Sequence[Hashable]]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in either of what both have, in the order of the first."""
    place = {key: position for position, key in enumerate(keys[1])}
    pairs = [(position, place[key]) for position, key in enumerate(keys[0]) if key in place]
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return first, second


def _notes(matrix: ScoreMatrix, p_values: Iterable[float | None]) -> list[str]:
    notes = _many_tests(p_values)
    if not matrix.answered.all():
        notes.append("Not every question has an answer in every condition: changes, ratios, flips and consistency rest on"
                     " those answered both clean and corrupted, so that they may differ a little from what the accuracies"
                     " beside them give.")
    return notes


def _many_tests(p_values: Iterable[float | None]) -> list[str]:
    count = sum(p is not None for p in p_values)
    if count < 2:
        return []
    return [f"{count} tests were made at once: about one in twenty has p < 0.05 by chance where nothing differs. p_holm is"
            " corrected for that: the chance of any false finding among all with p_holm < 0.05 is below 5 %. Intervals are not"
            " corrected: each covers its own figure 95 times in 100."]
