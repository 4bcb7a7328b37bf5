"""Worst cases of an evaluation: chosen from its answers, with their clips rendered again from media and spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import normpath
from pathlib import Path
from typing import Any

import pyarrow as pa

from squall.algorithms.corruption import parse_spec
from squall.jobs.corrupt_sources import IMAGE_SUFFIXES
from squall.jobs.examples import render_clips
from squall.platform.errors import SquallError
from squall.platform.manifest import resolve_media
from squall.platform.records import Branch, MediaType, ProblemType, VideoSample
from squall.platform.report.examples import ClipPair, ExampleAnswer, WorstCase
from squall.platform.report_card import CLEAN
from squall.platform.video import FrameSampling, load_clip

RIGHT_ABOVE = 0.5
"""A question counts as right where its answers' mean score is above this."""
COLUMNS = ("question", "condition", "index", "sample_id", "media", "file", "problem_type", "problem", "options", "solution",
           "kind", "family", "severity", "corruption", "clip_hash", "text", "score", "confidence")
"""What is read of the answers; tokens and log-probabilities are not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that is right when clean and wrong under a corruption: one answer of each."""

    clean: Mapping[str, Any]
    corrupted: Mapping[str, Any]
    failed: int
    """Kinds under which the question is wrong at some severity."""
    asked: int


def worst_cases(answers: pa.Table, media_root: Path, sampling: FrameSampling, model: str, count: int = 6) -> list[WorstCase]:
    """Questions that are right when clean and wrong under corruption, with their clips.

    Args:
        answers: the table `squall.platform.report_card.ANSWERS`.
        media_root: folder that relative media start from.
        sampling: as the evaluation took its frames.
        model: label of the model that answered.
    """
    return [_worst_case(failure, media_root, sampling, model) for failure in choose_failures(answers, count)]


def choose_failures(answers: pa.Table, count: int) -> list[Failure]:
    """At most `count` failures, each of another question, spread over families and videos.

    Questions that fail under most kinds come first and, among equals, those whose clean answer was surest. Families take
    turns, the one with most failures first; a question is shown under the mildest corruption of the family that it fails
    under, and a video is shown again only where no other is left.
    """
    turns = _by_family(_failures(answers))
    chosen: dict[int, Failure] = {}
    videos: set[str] = set()
    while turns and len(chosen) < count:
        for family in list(turns):
            left = [failure for failure in turns[family] if failure.clean["question"] not in chosen]
            fresh = [failure for failure in left if failure.clean["media"] not in videos] or left
            if not fresh or len(chosen) == count:
                del turns[family]
                continue
            chosen[fresh[0].clean["question"]] = fresh[0]
            videos.add(fresh[0].clean["media"])
    return list(chosen.values())


def _failures(answers: pa.Table) -> list[Failure]:
    """Of every question right when clean its mildest failure in each family, worst question first."""
    found = []
    for conditions in _by_question(answers).values():
        clean = conditions.pop(CLEAN, None)
        if clean is None or not _is_right(clean):
            continue
        wrong = [_shown(rows, right=False) for rows in conditions.values() if not _is_right(rows)]
        failed, asked = ({row["kind"] for row in rows} for rows in (wrong, [rows[0] for rows in conditions.values()]))
        mildest: dict[str, Mapping[str, Any]] = {}
        for row in sorted(wrong, key=lambda row: row["severity"] or 0.0):
            mildest.setdefault(row["family"], row)
        found += [Failure(_shown(clean, right=True), row, len(failed), len(asked)) for row in mildest.values()]
    found.sort(key=lambda failure: (-failure.failed, -(failure.clean["confidence"] or 0.0), failure.clean["question"]))
    return found


def _by_question(answers: pa.Table) -> dict[int, dict[str, list[Mapping[str, Any]]]]:
    """Rows by question and condition."""
    grouped: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for row in answers.select(list(COLUMNS)).to_pylist():
        grouped.setdefault(row["question"], {}).setdefault(row["condition"], []).append(row)
    return grouped


def _by_family(failures: Sequence[Failure]) -> dict[str, list[Failure]]:
    """Failures by family, the family with most of them first."""
    grouped: dict[str, list[Failure]] = {}
    for failure in failures:
        grouped.setdefault(failure.corrupted["family"], []).append(failure)
    return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))


def _is_right(rows: Sequence[Mapping[str, Any]]) -> bool:
    return sum(row["score"] or 0.0 for row in rows) / len(rows) > RIGHT_ABOVE


def _shown(rows: Sequence[Mapping[str, Any]], right: bool) -> Mapping[str, Any]:
    """The first of several answers that stands for them."""
    return next((row for row in rows if ((row["score"] or 0.0) > RIGHT_ABOVE) == right), rows[0])


def _worst_case(failure: Failure, media_root: Path, sampling: FrameSampling, model: str) -> WorstCase:
    clean, corrupted = failure.clean, failure.corrupted
    media = Path(clean["media"])
    sample = VideoSample(
        clean["sample_id"], clean["media"], MediaType.IMAGE if media.suffix.lower() in IMAGE_SUFFIXES else MediaType.VIDEO,
        clean["problem"], ProblemType(clean["problem_type"]), clean["solution"], tuple(clean["options"] or ()))
    return WorstCase(
        model, sample, corrupted["kind"], corrupted["severity"], _clips(failure, sample, media_root, sampling),
        ExampleAnswer(clean["text"], True), ExampleAnswer(corrupted["text"], False), clean["confidence"], failure.failed,
        failure.asked)


def _clips(failure: Failure, sample: VideoSample, media_root: Path, sampling: FrameSampling) -> ClipPair:
    root, copy = Path(normpath(media_root.absolute())), failure.corrupted["file"]
    try:
        spec = parse_spec(failure.corrupted["corruption"])
        sample = replace(sample, media=resolve_media(sample.id, sample.media, root))
        if copy is not None:
            return copied_clips(sample, resolve_media(sample.id, copy, root), sampling)
    except SquallError as error:
        return ClipPair(problem=f"The clips cannot be shown: {error}")
    seen = {Branch.CLEAN: failure.clean["clip_hash"], Branch.CORRUPTED: failure.corrupted["clip_hash"]}
    return render_clips(sample, spec, seen, sampling)


def copied_clips(sample: VideoSample, copy: str, sampling: FrameSampling) -> ClipPair:
    """A clip and its corrupted copy in a benchmark. Raises DataError where one cannot be read."""
    clean, corrupted = (load_clip(media, sampling, sample_id=sample.id, media_type=sample.media_type)
                        for media in (sample.media, copy))
    return ClipPair(clean.frames, corrupted.frames, clean.fps)
