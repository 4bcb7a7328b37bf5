"""Worst cases of an evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from squall.algorithms.corruption import make_spec, render_clip
from squall.jobs.evaluate_examples import choose_failures, worst_cases
from squall.platform.report_card import ANSWERS
from squall.platform.video import FrameSampling, load_clip

FRAMES = FrameSampling(max_frames=4, max_pixels=28 * 28)
KINDS = {"fog": "weather", "heavy_rain": "weather", "night": "photometric", "noise": "sensor"}
NOTHING = {name: None for name in ANSWERS.names}


def row(question: int, kind: str | None, severity: float, right: bool, **changes: Any) -> dict[str, Any]:
    return NOTHING | {
        "question": question, "condition": f"{kind} {severity:g}" if kind else "clean", "index": 0, "sample_id": f"q{question}",
        "media": f"{question}.mp4", "problem_type": "multiple choice", "problem": "What colour?",
        "options": ["A. red", "B. blue"], "solution": "B", "kind": kind, "family": KINDS.get(kind),
        "severity": severity if kind else None, "corruption": f"{kind} {severity:g} seed=5" if kind else None, "clip_hash": "?",
        "text": f"<answer>{'B' if right else 'A'}</answer>", "score": float(right), "confidence": 0.9} | changes


def question(number: int, wrong: dict[str, float], clean: bool = True, **changes: Any) -> list[dict[str, Any]]:
    """Rows of one question, which is wrong under each kind from that severity on."""
    return [row(number, None, 0.0, clean, **changes),
            *(row(number, kind, severity, severity < wrong.get(kind, 2.0), **changes)
              for kind in KINDS for severity in (0.7, 0.3))]


def table(*questions: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([one for rows in questions for one in rows], schema=ANSWERS)


def shown(answers: pa.Table, count: int = 6) -> list[tuple[int, str]]:
    return [(one.corrupted["question"], one.corrupted["condition"]) for one in choose_failures(answers, count)]


def test_only_what_is_right_when_clean_and_wrong_when_corrupted_is_chosen() -> None:
    answers = table(question(0, {}), question(1, {"fog": 0.3}, clean=False), question(2, {"fog": 0.7}))
    assert shown(answers) == [(2, "fog 0.7")] and shown(table(question(0, {}))) == []


def test_most_kinds_come_first_then_the_surest_and_the_mildest_severity_is_shown() -> None:
    answers = table(question(0, {"fog": 0.7}, confidence=0.6), question(1, {"fog": 0.3, "heavy_rain": 0.7}, confidence=0.2),
                    question(2, {"heavy_rain": 0.3}, confidence=0.99), question(3, {"fog": 0.3}, confidence=None))
    assert shown(answers) == [(1, "fog 0.3"), (2, "heavy_rain 0.3"), (0, "fog 0.7"), (3, "fog 0.3")]
    first = choose_failures(answers, 1)[0]
    assert (first.failed, first.asked) == (2, 4)


def test_families_take_turns_and_questions_and_videos_are_not_shown_twice() -> None:
    worst = [question(number, {"fog": 0.3, "heavy_rain": 0.3}) for number in range(4)]
    others = [question(4, {"night": 0.3}), question(5, {"noise": 0.3}), question(6, {"noise": 0.7}, media="5.mp4"),
              question(7, {"noise": 0.7}, confidence=0.1)]
    assert [number for number, _ in shown(table(*worst, *others), 5)] == [0, 5, 4, 1, 7]


def test_a_question_that_is_sampled_several_times_is_judged_by_its_mean() -> None:
    rows = [row(0, None, 0, right, index=i) for i, right in enumerate((False, True, True))]
    rows += [row(0, "fog", 0.3, right, index=i) for i, right in enumerate((True, False, False))]
    failure, = choose_failures(table(rows), 3)
    assert (failure.clean["index"], failure.corrupted["index"]) == (1, 1)


def test_clips_are_rendered_again_and_compared_with_what_the_model_saw(tmp_path: Path, media: Path) -> None:
    shutil.copy(media, tmp_path / "1.mp4")
    clip = load_clip(media, FRAMES, sample_id="x")
    corrupted = render_clip(clip, make_spec("fog", 0.3, 5))
    rows = question(1, {"fog": 0.3}, clip_hash=corrupted.content_hash)
    rows[0]["clip_hash"] = clip.content_hash
    case, = worst_cases(table(rows), tmp_path, FRAMES, "tiny-policy")
    assert (case.clips.problem, case.corruption, case.severity, case.model) == ("", "fog", 0.3, "tiny-policy")
    assert (case.clips.clean == clip.frames).all() and (case.clips.corrupted == corrupted.frames).all()
    assert (case.clean.final, case.corrupted.final, case.confidence) == ("B", "A", 0.9)
    rows[0]["clip_hash"] = "another"
    assert "not exactly the pixels" in worst_cases(table(rows), tmp_path, FRAMES, "")[0].clips.problem


def test_media_that_is_gone_or_leaves_the_folder_and_kinds_that_are_gone_are_said_and_not_shown(tmp_path: Path) -> None:
    for changes, words in (({}, "1.mp4 does not exist"), ({"media": "../secret.mp4"}, "leaves the folder"),
                           ({"corruption": "drizzle 0.3 seed=5"}, "drizzle")):
        case, = worst_cases(table(question(1, {"fog": 0.3}, **changes)), tmp_path, FRAMES, "")
        assert words in case.clips.problem and case.clips.clean is None and case.clips.corrupted is None
