"""Cards and comparisons from answers whose figures are known, and every reason to doubt them."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from squall.jobs.evaluate_card import build_card, compare_cards
from squall.jobs.evaluate_differences import differing_answers
from squall.platform.errors import DataError
from squall.platform.report_card import ANSWERS, Loss, Reasoning, ReportCard, RubricAgreement
from squall.platform.runs import to_json

CONDITIONS = {"clean": (None, None, None), "fog 0.7": ("fog", "weather", 0.7), "blur 0.7": ("blur", "camera", 0.7)}
QUESTIONS = 60


def answer(question: int, condition: str, right: bool = True, **changes: Any) -> dict[str, Any]:
    """One row; solutions go round A to D, wrong answers are the next letter."""
    kind, family, severity = CONDITIONS[condition]
    solution = "ABCD"[question % 4]
    letter = solution if right else "BCDA"[question % 4]
    row = {"question": question, "condition": condition, "index": 0, "sample_id": f"q{question}",
           "media": f"{question // 2}.mp4", "problem_type": "multiple choice", "problem": "How many?",
           "question_type": "count" if question % 2 else "colour", "options": ["A. 1", "B. 2", "C. 3", "D. 4"],
           "solution": solution, "kind": kind, "family": family, "severity": severity, "corruption": condition,
           "clip_hash": f"{question // 2} {condition}", "text": f"<answer>{letter}</answer>",
           "answer": letter, "meaning": letter, "score": float(right), "confidence": None, "top5": None, "tokens": 3,
           "finish_reason": "stop", "logprobs": [-0.1, -0.5, -0.2], "token_ids": [1, ord(letter), 2]}
    return {**row, **changes}


def is_right(question: int, condition: str) -> bool:
    """Clean 45 of 60, fog 30, blur 40."""
    return question % 12 < {"clean": 9, "fog 0.7": 6, "blur 0.7": 8}[condition]


def rows(right: Callable[[int, str], bool] = is_right, **changes: Any) -> list[dict[str, Any]]:
    return [answer(question, condition, right(question, condition), **changes)
            for question in range(QUESTIONS) for condition in CONDITIONS]


def table(found: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=ANSWERS)


def facts(**changes: Any) -> dict[str, Any]:
    return {"name": "run", "model": {"label": "policy"}, "data": {"hash": "d", "questions": QUESTIONS, "videos": 30},
            "asked": {"calibration": 1, "seed": 7, "frames": 8, "decoding": {"temperature": 0.0}}, "provenance": {}, **changes}


def card_of(found: Iterable[dict[str, Any]], **changes: Any) -> ReportCard:
    return build_card(table(found), facts(**changes))


def test_the_card_has_the_figures_and_no_doubts_where_none_are_due():
    card = card_of(rows())
    assert [(one.condition, one.accuracy.value) for one in card.conditions] == [
        ("clean", 0.75), ("blur 0.7", pytest.approx(2 / 3, abs=1e-6)), ("fog 0.7", 0.5)]
    assert card.summary.mpc.value == pytest.approx((0.5 + 2 / 3) / 2, abs=1e-6) and card.summary.worst_kind == "fog"
    assert [group.name for group in card.by_question_type] == ["colour", "count"]
    assert card.calibration_clean is None and card.unreliable == ()
    assert len(card.notes) == 1 and card.notes[0].startswith("2 tests were made at once")
    assert ReportCard.model_validate_json(to_json(card.model_dump(mode="json"))) == card


def test_the_order_of_rows_and_the_number_of_answers_change_nothing():
    found = rows(confidence=0.8) + rows(lambda question, condition: not is_right(question, condition), index=1, confidence=0.3)
    shuffled = [found[i] for i in np.random.default_rng(1).permutation(len(found))]
    first, second = (to_json(card_of(one).model_dump(mode="json")) for one in (found, shuffled))
    assert first == second
    thrice = card_of([answer(q, c, is_right(q, c), index=i) for q in range(QUESTIONS) for c in CONDITIONS for i in range(3)])
    assert thrice == card_of(rows())


def test_several_answers_are_averaged_and_most_of_them_decide_the_meaning():
    found = [answer(q, c, (q + i) % 3 > 0, index=i) for q in range(QUESTIONS) for c in CONDITIONS for i in range(3)]
    card = card_of(found)
    assert card.summary.clean.value == pytest.approx(2 / 3, abs=1e-6) and card.summary.consistency.value == 1.0
    assert card.conditions[1].p_value is None, "averages are graded"


def test_a_lost_answer_is_a_lost_pair_and_noted():
    found = [row for row in rows() if (row["question"], row["condition"]) != (9, "fog 0.7")]  # wrong in both
    card = card_of(found, lost=(Loss(question=9, sample_id="q9", condition="fog 0.7", reason="decode_error", message="bad"),))
    fog = card.conditions[2]
    assert (fog.accuracy.n, fog.change.n, fog.accuracy.value) == (59, 59, pytest.approx(30 / 59, abs=1e-6))
    assert fog.change.value == pytest.approx((30 - 45) / 59, abs=1e-6) and card.conditions[1].change.n == 60
    assert any("rest on those answered both clean and corrupted" in note for note in card.notes) and card.unreliable == ()


def test_calibration_is_of_clean_and_of_corrupted_answers():
    card = card_of(rows(confidence=0.75))
    assert card.calibration_clean.ece.value == 0.0 and card.calibration_clean.n == 60
    corrupted = card.calibration_corrupted
    assert corrupted.ece.value == pytest.approx(0.75 - 70 / 120, abs=1e-6) and corrupted.n == 120


def losses(lost: Callable[[int, str], bool]) -> tuple[Loss, ...]:
    return tuple(Loss(question=row["question"], sample_id="q", condition=row["condition"], reason="r", message="m")
                 for row in rows() if lost(row["question"], row["condition"]))


LOW = Reasoning(judge="j", scores=(), unread=0, agreement=(
    RubricAgreement(name="recovery", n=20, exact=0.2, within_one=0.5, weighted_kappa=0.1),
    RubricAgreement(name="belief", n=20, exact=0.9, within_one=1.0, weighted_kappa=0.9)))


@pytest.mark.parametrize("found, changes, sentence", [
    ([row for row in rows() if row["question"] < 16], {}, "Questions come from 8 videos"),
    ([{**row, "media": "one.mp4" if row["question"] < 50 else row["media"]} for row in rows()], {},
     "Questions come from 6 videos, as good as 1 with equally many"),
    ([row for row in rows() if row["question"] >= 4], {"lost": losses(lambda question, _: question < 4)},
     "6.7% of all answers are lost"),
    ([row for row in rows() if row["question"] >= 3 or row["condition"] != "fog 0.7"],
     {"lost": losses(lambda question, condition: question < 3 and condition == "fog 0.7")},
     "Losses differ between conditions: 0.0% in 'clean', 5.0% in 'fog 0.7'"),
    (rows(lambda question, condition: question % 4 == question // 4 % 4), {}, "is not above chance (0.250)"),
    (rows(lambda question, condition: question > 3), {}, "Only 4 of 60 clean answers are wrong"),
    ([row for row in rows() if row["condition"] != "clean"], {}, "Nothing was answered clean"),
    ([{**row, "answer": None, "meaning": None} if row["question"] % 8 == 0 else row for row in rows()], {},
     "13.3% of all texts hold no answer in an answer tag"),
    (rows(finish_reason="length"), {}, "100.0% of the questions have no answer that was not cut off"),
    (rows(meaning="A"), {}, "100.0% of the answers to multiple choice are 'A'"),
    (rows(), {"reasoning": LOW}, "recovery scores agree poorly with those given by hand: kappa is 0.10"),
    (rows(), {"asked": {"calibration": 0}}, "Severities are not calibrated (version 0)"),
])
def test_doubts_are_said(found: list[dict[str, Any]], changes: dict[str, Any], sentence: str):
    doubts = card_of(found, **changes).unreliable
    assert len([doubt for doubt in doubts if sentence in doubt]) == 1, doubts
    assert not any("belief" in doubt for doubt in doubts)


def test_a_classifier_guesses_among_its_classes():
    found = rows(lambda question, condition: question % 4 == 0, options=[], problem_type="free-form", top5=1.0)
    card = card_of(found, model={"label": "c", "classes": ["a", "b", "c", "d"]})
    assert any("not above chance (0.250)" in doubt for doubt in card.unreliable) and card.summary.top5_clean.value == 1.0
    of_fifteen = card_of(found, model={"label": "c", "classes": list("abcdefghijklmno")})
    assert not any("chance" in doubt for doubt in of_fifteen.unreliable)


@pytest.mark.parametrize("found, message", [
    ([], "there is none"),
    ([*rows(), answer(3, "clean")], "question q3, clean: answer 0 is there twice"),
    ([answer(0, "clean", score=1.5)], "question q0, clean: score 1.5; allowed is 0 to 1"),
    ([answer(0, "clean", score=None)], "score None"),
    ([answer(0, "clean", score=math.nan)], "score nan"),
    ([answer(0, "fog 0.7"), answer(1, "fog 0.7", severity=0.3)], "'fog 0.7' has several"),
])
def test_bad_answers_are_refused(found: list[dict[str, Any]], message: str):
    with pytest.raises(DataError, match=message):
        build_card(table(found), facts())


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]], **changes: Any):
    asked = {**facts()["asked"], **changes.pop("asked", {})}
    return compare_cards((card_of(first, name="before"), table(first)),
                         (card_of(second, name="after", asked=asked, **changes), table(second)))


def better(question: int, condition: str) -> bool:
    return is_right(question, condition) or (condition == "fog 0.7" and question % 12 < 9)


def test_a_comparison_is_paired_and_corrected():
    card = compare(rows(), rows(better))
    contrasts = {one.name: one for one in card.contrasts}
    assert list(contrasts) == ["clean", "mpc", "blur 0.7", "fog 0.7"]
    assert (card.first, card.second, card.n) == ("before", "after", 60)
    fog = contrasts["fog 0.7"]
    assert (fog.first, fog.second, fog.change.value) == (0.5, 0.75, 0.25) and fog.change.low > 0.1
    # 15 questions gained in 10 videos, each of which changed as a whole: ten heads of ten coins, or tails.
    assert fog.p_value == pytest.approx(2 / 2**10) and fog.p_holm == pytest.approx(3 * 2 / 2**10)
    assert contrasts["clean"].p_holm == 1.0 and contrasts["mpc"].p_value is None and contrasts["mpc"].change.value == 0.125
    assert card.unreliable == () and card.notes[0].startswith("3 tests were made at once")


def test_questions_are_paired_by_what_they_are_and_not_by_their_place():
    moved = [{**row, "question": 99 - row["question"]} for row in rows(better)]
    assert compare(rows(), moved).contrasts == compare(rows(), rows(better)).contrasts


@pytest.mark.parametrize("found, changes, sentence", [
    (rows(), {"data": {"hash": "other", "questions": 60}}, "over different data"),
    ([row for row in rows() if row["question"] < 40], {}, "Only 40 questions are common to both, of 60 and 40"),
    ([row for row in rows() if row["condition"] != "fog 0.7"], {}, "Conditions differ: fog 0.7 are in one of the runs alone"),
    (rows(), {"asked": {"seed": 8}}, "The runs differ in seed: 7 and 8."),
    (rows(), {"asked": {"calibration": 2}}, "differ in calibration: 1 and 2"),
    (rows(), {"asked": {"frames": 16}}, "differ in frames: 8 and 16"),
    ([{**row, "clip_hash": "x"} if row["question"] < 10 else row for row in rows()], {},
     "30 of 180 common clips do not have the same pixels"),
    ([row for row in rows() if row["question"] % 8 or row["condition"] == "clean"], {}, "8.9% of the common questions"),
    ([row for row in rows() if row["question"] < 16], {}, "Questions come from 8 videos"),
])
def test_what_speaks_against_a_comparison_is_said(found: list[dict[str, Any]], changes: dict[str, Any], sentence: str):
    doubts = compare(rows(), found, **changes).unreliable
    assert len([doubt for doubt in doubts if sentence in doubt]) == 1, doubts


def test_runs_without_a_common_question_are_refused_and_other_decoding_is_noted():
    with pytest.raises(DataError, match="'before' and 'after' have no answer to a common question") as error:
        compare(rows(), rows(problem="Something else?"))
    assert error.value.reason == "different_data"
    assert "differ in decoding" in compare(rows(), rows(), asked={"decoding": {"temperature": 0.7}}).notes[0]


def test_differing_answers_come_with_their_margin():
    second = rows()
    second[0] = {**second[0], "token_ids": [1, 7, 2], "logprobs": [-0.1, -0.7, -0.2], "text": "other"}
    second[4] = {**second[4], "token_ids": [1, ord("B")], "logprobs": [-0.1, -0.01], "text": "short"}
    second[8] = {**second[8], "token_ids": [], "logprobs": [], "text": "by an endpoint"}
    alone = second.pop(10)
    found = differing_answers(table(rows()), table(reversed(second)))
    assert [(one.sample_id, one.condition, one.position) for one in found] == [
        ("q0", "clean", 1), ("q1", "fog 0.7", 2), ("q2", "blur 0.7", None), (alone["sample_id"], alone["condition"], None)]
    assert found[0].margin == pytest.approx(0.2, abs=1e-6) and found[0].second_text == "other"
    assert found[0].lead == pytest.approx(math.log(math.exp(-0.5) / (1 - math.exp(-0.5))), abs=1e-5)
    assert [(one.margin, one.second_text) for one in found[1:]] == [(None, "short"), (None, "by an endpoint"), (None, None)]
    assert differing_answers(table(rows()), table(rows())) == ()
    assert differing_answers(table([]), table(rows()[:1]))[0].first_text is None


def test_a_large_card_is_made_in_bounded_time_and_memory():
    rng = np.random.default_rng(0)
    kinds = [(f"kind{k}", f"family{k % 7}", severity) for k in range(29) for severity in (0.2, 0.4, 0.6, 0.8)]
    names = ["clean", *(f"{kind} {severity:g}" for kind, _, severity in kinds)]
    questions, count = 2000, len(names)
    score = (rng.random(questions * count) < 0.5).astype(float)
    row, column = np.divmod(np.arange(len(score)), count)

    def cycle(values: list[Any], places: np.ndarray) -> pa.Array:
        return pa.array(values).take(pa.array(places))

    columns = {
        "question": row, "condition": cycle(names, column), "index": 0 * row,
        "sample_id": cycle([f"q{q}" for q in range(questions)], row), "media": cycle([f"{q}" for q in range(1000)], row // 2),
        "problem_type": cycle(["multiple choice"], 0 * row), "question_type": cycle([f"t{t}" for t in range(10)], row % 10),
        "problem": cycle(["?"], 0 * row), "options": cycle([["A", "B"]], 0 * row), "solution": cycle(["A", "B"], row % 2),
        **{name: cycle([None, *(kind[i] for kind in kinds)], column)
           for i, name in enumerate(("kind", "family", "severity"))},
        "answer": cycle(["A"], 0 * row), "meaning": cycle(["A", "B"], score.astype(int)), "score": score,
        "confidence": rng.random(len(row)), "finish_reason": cycle(["stop"], 0 * row)}
    keep = rng.random(len(row)) < 0.99
    answers = pa.table({field.name: pa.array(columns[field.name]).cast(field.type) if field.name in columns
                        else pa.nulls(len(row), field.type) for field in ANSWERS}).filter(keep)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    card = build_card(answers, facts(data={"questions": questions}))
    seconds, grown = time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(card.conditions) == 117 and card.summary.clean.low < 0.5 < card.summary.clean.high
    assert seconds < 20 and grown < 1500, (seconds, grown)
