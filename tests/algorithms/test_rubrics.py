"""What a judge is asked for by rubric, which replies can be read, and agreement by enumeration."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.algorithms.judging import UnreadableReply
from squall.algorithms.rubrics import (
    NAMES,
    RUBRICS,
    SCORES_PATTERN,
    agreement,
    doubts,
    parse_scores,
    rubric_messages,
    weighted_kappa,
)
from squall.platform.rubric_labels import ReasoningTrace, RubricScores

TRACE = ReasoningTrace(sample_id="s1", problem="Which {form} moves?", options=("A. red", "B. blue"),
                       text='The {material} is "red".')


def scores(*values: int) -> RubricScores:
    return RubricScores(**dict(zip(NAMES, values, strict=True)))


def reply(**changes: object) -> str:
    return json.dumps({"fragility": 1, "consistency": 2, "belief": 3, "recovery": 4, "attention": 5} | changes)


def test_a_trace_is_quoted_with_its_reference_and_every_rubric_is_written_out() -> None:
    (alone,), (beside,) = (rubric_messages(trace) for trace in (TRACE, TRACE.model_copy(update={"reference": "Clean\ntext."})))
    material = [json.loads(line) for line in beside["content"].split("\n") if line.startswith('{"question"')]
    assert material == [{"question": "Which {form} moves?", "options": ["A. red", "B. blue"], "reference": "Clean\ntext.",
                         "text": 'The {material} is "red".'}]
    assert '"reference":' not in alone["content"] and "s1" not in alone["content"]
    for rubric in RUBRICS:
        better = "" if rubric.higher_is_better else " (lower is better)"
        assert f"\n{rubric.name}{better}: {rubric.question}\n0: " in alone["content"]
        assert [score for score, _ in rubric.anchors][::3] == [0, 5]
    assert alone["content"].endswith('Its form: {"fragility": score, "consistency": score, "belief": score, "recovery": score, '
                                     '"attention": score}')
    assert NAMES == tuple(RubricScores.model_fields) and [rubric.higher_is_better for rubric in RUBRICS] == [False, *[True] * 4]


@pytest.mark.parametrize("text", [
    reply(), f"<think>{{\"belief\": 0}}</think>Here: {reply()} as asked {{sic}}.",
    f"```json\n{json.dumps(json.loads(reply()), indent=2)}\n```",
])
def test_one_object_is_found_among_words(text: str) -> None:
    assert parse_scores(text) == scores(1, 2, 3, 4, 5)


@pytest.mark.parametrize(("text", "problem"), [
    ("Good reasoning, 4 of 5.", "no JSON object in 'Good reasoning, 4 of 5.', expected one"),
    ("", "no JSON object in an empty reply"),
    (reply() + reply(), "2 JSON objects in "),
    ("[1, 2, 3, 4, 5]", "no JSON object"),
    (reply(belief=6), "belief is 6, expected a whole number from 0 to 5"),
    (reply(belief=-1), "belief is -1"),
    (reply(belief=2.5), "belief is 2.5"),
    (reply(belief=True), "belief is True"),
    (reply(belief="3"), "belief is 3, expected a whole number"),
    (reply(belief=None), "belief is None"),
    (reply(belief=[3]), r"belief is \[3\]"),
    (reply(clarity=3), "unknown score 'clarity', expected fragility, consistency"),
    (reply()[:-1] + ', "belief": 3}', "a score is given twice"),
    ('{"fragility": 1, "consistency": 2, "recovery": 4}', "no score for belief, attention"),
    (json.dumps({"scores": json.loads(reply())}), "unknown score 'scores'"),
    (f"<think>{reply()}", "ends within its <think> block"),
    ('{"a":' * 5000, "brackets nested too deeply"),
])
def test_what_cannot_be_read_is_refused_and_said(text: str, problem: str) -> None:
    with pytest.raises(UnreadableReply, match=problem):
        parse_scores(text)


@given(st.lists(st.integers(0, 5), min_size=5, max_size=5))
def test_a_reply_in_the_form_asked_for_is_read_back(values: list[int]) -> None:
    text = json.dumps(dict(zip(NAMES, values, strict=True)))
    assert re.fullmatch(SCORES_PATTERN, text) and parse_scores(text) == scores(*values)
    assert not re.fullmatch(SCORES_PATTERN, text.replace(": ", ": 1", 1))


def test_kappa_is_that_of_a_table_worked_out_by_hand() -> None:
    # Squared differences of the pairs (0,0) (0,0) (1,0) (2,2): 1, mean 1/4. By chance, 0 0 1 2 against 0 0 0 2: squared
    # differences of all 16 pairs are 2 * (0+0+0+4) + (1+1+1+1) + (4+4+4+0) = 24, mean 3/2. Kappa = 1 - 1/6.
    assert weighted_kappa([0, 0, 1, 2], [0, 0, 0, 2]) == pytest.approx(5 / 6, abs=1e-12)
    assert weighted_kappa([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]) == pytest.approx(-1)
    assert weighted_kappa([1, 4], [1, 4]) == 1 and weighted_kappa([2, 2, 2], [1, 2, 3]) == 0
    assert weighted_kappa([3, 3], [3, 3]) is None and weighted_kappa([], []) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_kappa_is_that_of_the_confusion_matrix(pairs: list[tuple[int, int]]) -> None:
    n = len(pairs)
    observed = expected = 0.0
    for i, j in itertools.product(range(6), repeat=2):
        weight = (i - j) ** 2 / 25
        observed += weight * sum(pair == (i, j) for pair in pairs) / n
        expected += weight * sum(first == i for first, _ in pairs) * sum(second == j for _, second in pairs) / n**2
    found = weighted_kappa([first for first, _ in pairs], [second for _, second in pairs])
    assert found == (pytest.approx(1 - observed / expected) if expected else None)


def test_agreement_counts_what_was_judged_and_doubts_say_what_is_poor() -> None:
    labels = [scores(0, 5, 5, 5, 5), scores(5, 0, 1, 0, 5), scores(2, 3, 3, 3, 5), scores(1, 1, 1, 1, 1)]
    judged = [scores(0, 5, 0, 5, 5), scores(4, 0, 5, 0, 5), scores(4, 3, 3, 3, 5), None]
    found = {one.name: one for one in agreement(labels, judged)}
    assert tuple(found) == NAMES and {one.n for one in found.values()} == {3}
    assert (found["fragility"].exact, found["fragility"].within_one) == pytest.approx((1 / 3, 2 / 3))
    assert (found["consistency"].exact, found["consistency"].weighted_kappa) == (1, pytest.approx(1))
    assert found["belief"].weighted_kappa < 0 and found["attention"].weighted_kappa is None
    assert doubts(tuple(found.values()), 4) == (
        "The judge could not score 1 of the 4 hand-scored traces.",
        "The judge's belief scores agree poorly with those given by hand: kappa is "
        f"{found['belief'].weighted_kappa:.2f}, and 0.4 is fair.",
        "The judge's attention scores agree poorly with those given by hand: kappa is not defined, and 0.4 is fair.")
    nothing = agreement(labels, [None] * 4)
    assert {(one.n, one.exact, one.weighted_kappa) for one in nothing} == {(0, 0.0, None)}
