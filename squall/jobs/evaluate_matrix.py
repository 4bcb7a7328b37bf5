"""From the rows of answers.parquet to a `ScoreMatrix`: one score and one meaning per question and condition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.algorithms.score_matrix import Condition, ScoreMatrix, average_answers, majority_meanings
from squall.platform.errors import DataError
from squall.platform.report_card import CLEAN

IDENTITY = ("sample_id", "media", "problem", "solution")
"""Columns that make two questions of different runs the same question."""


@dataclass(frozen=True, slots=True)
class AnswerMatrix:
    """Scores by question and condition, and the questions."""

    matrix: ScoreMatrix
    questions: pa.Table
    """A row per question, in the order of the matrix: its columns of `ANSWERS`, up to ``solution``."""

    def identities(self) -> list[tuple[str, ...]]:
        """What tells each question from all others, in any run."""
        return list(zip(*(self.questions[name].to_pylist() for name in IDENTITY), strict=True))


def answer_matrix(table: pa.Table) -> AnswerMatrix:
    """Scores of several answers to one clip are averaged, and the meaning of most of them is taken.

    Raises:
        DataError: there is no answer, one is there twice, or a score is missing or not in [0, 1].
    """
    _check(table)
    order = pc.sort_indices(table.select(["question", "condition", "index"]),
                            [(name, "ascending") for name in ("question", "condition", "index")])
    table = table.take(order)
    conditions = _conditions(table)
    numbers, first, row = np.unique(table["question"].to_numpy(), return_index=True, return_inverse=True)
    column = pc.index_in(table["condition"], pa.array([one.name for one in conditions])).to_numpy()
    shape = (len(numbers), len(conditions))
    cells = row * shape[1] + column
    _check_once(table, cells)
    questions = table.take(first)
    meanings = pc.fill_null(table["meaning"].combine_chunks().dictionary_encode().indices, -1).to_numpy()
    top5 = table["top5"]
    return AnswerMatrix(ScoreMatrix(
        conditions, average_answers(cells, table["score"].to_numpy(), shape), majority_meanings(cells, meanings, shape),
        np.array(questions["media"].to_pylist()), np.array(questions["question_type"].to_pylist()),
        None if top5.null_count == len(top5) else average_answers(cells, top5.to_numpy(), shape)), questions)


def _conditions(table: pa.Table) -> tuple[Condition, ...]:
    """Clean, asked or not, then by family, kind and severity."""
    rows = table.group_by(["condition", "kind", "family", "severity"]).aggregate([]).to_pylist()
    found = [Condition(row["condition"], row["kind"], row["family"], row["severity"]) for row in rows
             if row["condition"] != CLEAN]
    names = [one.name for one in found]
    if unclear := {name for name in names if names.count(name) > 1}:
        raise DataError(f"answers: condition '{min(unclear)}' has several kinds, families or severities", reason="bad_answers")
    return Condition(CLEAN), *sorted(found, key=lambda one: (str(one.family), str(one.kind), one.severity or 0.0))


def _check(table: pa.Table) -> None:
    if not len(table):
        raise DataError("answers: there is none, so there is no card; the list of lost questions says why", reason="no_answers")
    bad = pc.fill_null(pc.invert(pc.and_(pc.greater_equal(table["score"], 0), pc.less_equal(table["score"], 1))), True)
    if pc.any(bad).as_py():
        row = table.filter(bad).slice(0, 1).to_pylist()[0]
        raise DataError(f"answers: question {row['sample_id']}, {row['condition']}: score {row['score']}; allowed is 0 to 1",
                        sample_id=row["sample_id"], reason="bad_answers")


def _check_once(table: pa.Table, cells: np.ndarray) -> None:
    index = table["index"].to_numpy()
    twice = np.flatnonzero((np.diff(cells) == 0) & (np.diff(index) == 0))
    if len(twice):
        row = table.slice(int(twice[0]), 1).to_pylist()[0]
        raise DataError(f"answers: question {row['sample_id']}, {row['condition']}: answer {row['index']} is there twice",
                        sample_id=row["sample_id"], reason="bad_answers")
