"""What `squall evaluate` keeps: a journal of answers as they come in, and the table that it ends in.

The journal says which questions need not be asked again. The table has the same rows in the same order, however often the run
was interrupted, and is written a part at a time, so that memory does not grow with the number of clips.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from squall.algorithms.accuracy import canonical_answer
from squall.jobs.evaluate_plan import SCORE, Evaluation
from squall.jobs.evaluate_questions import Condition
from squall.jobs.evaluated_model import Reading
from squall.platform.prompts import extract_answer
from squall.platform.records import ScoredGroup
from squall.platform.report_card import ANSWERS
from squall.platform.runs import to_json
from squall.platform.video import replacing

ROWS_AT_ONCE = 4096
KEPT_DIGITS = 6
"""Of log-probabilities: as many as float32 has near 1."""


class Journal:
    """``answers.jsonl``: one line for every question in every condition, with all its answers, in the order they came in."""

    def __init__(self, path: Path) -> None:
        """Open the journal of a run, or begin one; a line that a crash cut short is cut off."""
        self._path = path
        self._offsets: dict[tuple[int, str], int] = {}
        self._file: IO[bytes] = path.open("a+b")
        self._read()

    @property
    def done(self) -> Set[tuple[int, str]]:
        """(question, condition) of what is answered."""
        return self._offsets.keys()

    def _read(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            self._offsets[entry["question"], entry["condition"]] = end
            end += len(line)
        self._file.truncate(end)
        self._file.seek(0, 2)

    def record(self, question: int, condition: Condition, scored: ScoredGroup) -> None:
        """Enter a question's answers in a condition. They are in the file when the call returns."""
        group = scored.sampled
        (clip_hash,) = group.clip_hashes.values()
        answers = [{
            "index": rollout.index, "text": rollout.text, "score": row[SCORE], "finish_reason": rollout.finish_reason,
            "token_ids": rollout.token_ids, "logprobs": [round(value, KEPT_DIGITS) for value in rollout.logprobs],
        } for rollout, row in zip(group.rollouts, scored.rewards, strict=True)]
        entry = {"question": question, "condition": condition.name, "clip_hash": clip_hash,
                 "corruption": None if group.corruption is None else str(group.corruption), "answers": answers}
        offset = self._file.tell()
        self._file.write(to_json(entry).encode() + b"\n")
        self._file.flush()
        self._offsets[question, condition.name] = offset

    def entries(self, cases: Sequence[tuple[int, str]]) -> Iterator[Mapping[str, Any]]:
        """What is known of these cases, in their order; those that are not answered are left out."""
        with self._path.open("rb") as file:
            for case in cases:
                if case in self._offsets:
                    file.seek(self._offsets[case])
                    yield json.loads(file.readline())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_answers(path: Path, work: Evaluation, journal: Journal, reading: Reading) -> None:
    """Write the table of all answers, in one piece, in the order in which questions are asked."""
    places = {condition.name: condition for condition in work.conditions}
    cases = [(question, condition.name) for question, condition in work.cases()]
    with replacing(path) as temporary, pq.ParquetWriter(temporary, ANSWERS, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for entry in journal.entries(cases):
            rows += answer_rows(work, places[entry["condition"]], entry, reading)
            if len(rows) >= ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, ANSWERS))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, ANSWERS))


def answer_rows(work: Evaluation, condition: Condition, entry: Mapping[str, Any], reading: Reading) -> Iterator[dict[str, Any]]:
    """The rows of a question in a condition."""
    sample = work.samples[entry["question"]]
    copy = work.copies[condition.name][entry["question"]] if work.copies and condition.kind is not None else None
    shared = {
        "question": entry["question"], "condition": condition.name, "sample_id": sample.id,
        "media": work.media_of(sample),
        "problem_type": str(sample.problem_type),
        "question_type": str(sample.metadata.get("question_type", sample.problem_type)), "problem": sample.problem,
        "options": list(sample.options), "solution": sample.solution, "kind": condition.kind, "family": condition.family,
        "severity": condition.severity, "clip_hash": entry["clip_hash"],
        "corruption": entry["corruption"] if copy is None else copy.metadata["corruption"],
        "file": None if copy is None else work.media_of(copy)}
    for given in entry["answers"]:
        answer = extract_answer(given["text"])
        yield shared | {name: given[name] for name in ("index", "text", "score", "finish_reason", "token_ids", "logprobs")} | {
            "answer": answer, "meaning": None if answer is None else canonical_answer(answer, sample.problem_type),
            "tokens": len(given["token_ids"] or given["logprobs"]) or None, **reading(sample, given)}
