"""Traces scored by a judge over real HTTP, which now and then misbehaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from squall.actors.judge_config import JudgeConfig
from squall.actors.judges import Judge, JudgeError, open_judge
from squall.actors.query_ledger import QueryLedger
from squall.actors.rubric_scoring import measure_agreement, score_reasoning
from squall.algorithms.rubrics import doubts
from squall.platform.errors import ConfigError
from squall.platform.rubric_labels import RubricScores, load_labels

LABELS = load_labels()
TRACES = [label.trace for label in LABELS]


def endpoint(url: str, ledger: Path | None = None, **values: Any) -> Judge:
    settings = {"model": "judge-1", "api_key_env": None, "backoff_s": 0.01, "timeout_s": 5.0} | values
    return open_judge(JudgeConfig(kind="endpoint", base_url=url, **settings), ledger)


def material(content: str) -> dict[str, Any]:
    (line,) = (line for line in content.split("\n") if line.startswith('{"question"'))
    return json.loads(line)


def by_hand(content: str) -> str:
    """The hand-made scores of the trace that is asked about."""
    asked = material(content)
    return next(label.scores.model_dump_json() for label in LABELS
                if (label.trace.text, label.trace.reference) == (asked["text"], asked.get("reference")))


@pytest.fixture
def server(chat_server: Any) -> Any:
    chat_server.answer = by_hand
    return chat_server


def test_a_judge_that_misbehaves_now_and_then_still_scores_every_trace_as_it_meant_to(server: Any, tmp_path: Path) -> None:
    server.script = [500, "Good reasoning.", None, b"<html>", 429, '{"fragility": 1}', ('{"fragility": 0, "con', "length")]
    ledger = tmp_path / "ledger.sqlite"
    judge = endpoint(server.url, ledger, max_attempts=8)
    told: list[object] = []
    assert score_reasoning(judge, TRACES, on_scored=lambda trace, outcome: told.append(outcome)) == [
        label.scores for label in LABELS]
    usage = judge.take_usage()
    assert (usage["calls"], usage["retries"], usage["unparsed"], usage["failures"]) == (len(TRACES) + 7, 7, 3, 0)
    assert len(told) == QueryLedger(ledger).count("rubrics") == len(TRACES)
    assert score_reasoning(endpoint(server.url, ledger), TRACES[::-1]) == [label.scores for label in LABELS[::-1]]
    assert len(server.bodies) == len(TRACES) + 7


def test_what_was_never_read_is_none_counted_and_told_and_the_others_stand(server: Any) -> None:
    bad = TRACES[2].text

    def answer(content: str) -> str:
        return '{"fragility": 9}' if material(content)["text"] == bad else by_hand(content)

    server.answer = answer
    judge, told = endpoint(server.url, max_attempts=2), []
    scores = score_reasoning(judge, TRACES[:5], on_scored=lambda trace, outcome: told.append((trace.sample_id, outcome)))
    assert scores == [None if place == 2 else LABELS[place].scores for place in range(5)]
    (failure,) = (outcome for _, outcome in told if isinstance(outcome, JudgeError))
    assert failure.reason == "judge_unparsed" and "sample label-03" in str(failure)
    assert "fragility is 9, expected a whole number from 0 to 5" in str(failure)
    assert judge.take_usage()["failures"] == 1


def test_equal_traces_are_asked_about_once_and_a_clean_one_without_its_reference(server: Any) -> None:
    again = [TRACES[0].model_copy(update={"sample_id": f"other-{number}"}) for number in range(3)]
    beside = TRACES[1]
    assert score_reasoning(endpoint(server.url), [*again, beside, beside]) == [LABELS[0].scores] * 3 + [LABELS[1].scores] * 2
    asked = [material(body["messages"][0]["content"]) for body in server.bodies]
    assert sorted("reference" in one for one in asked) == [False, True]


def test_agreement_with_the_hand_scored_traces_is_what_was_planted(server: Any) -> None:
    assert all((one.n, one.exact, one.weighted_kappa) == (len(LABELS), 1, pytest.approx(1))
               for one in measure_agreement(endpoint(server.url)))

    def off_by_one_and_blind(content: str) -> str:
        scores = json.loads(by_hand(content))
        return json.dumps(scores | {"belief": abs(scores["belief"] - 1), "attention": 3})

    server.answer = off_by_one_and_blind
    found = {one.name: one for one in measure_agreement(endpoint(server.url, model="judge-2"))}
    assert (found["belief"].exact, found["belief"].within_one) == (0, 1) and 0.7 < found["belief"].weighted_kappa < 1
    assert found["attention"].weighted_kappa == pytest.approx(0, abs=0.05) and found["recovery"].exact == 1
    (one,) = doubts(tuple(found.values()), len(LABELS))
    assert "attention" in one


def test_a_judge_that_cannot_grade_or_is_not_let_in_says_so_at_once(server: Any) -> None:
    with pytest.raises(ConfigError, match="judge.kind = rules cannot grade reasoning; rubrics are for kind engine or endpoint"):
        score_reasoning(open_judge(JudgeConfig()), TRACES[:1])
    server.script = [401] * 4
    with pytest.raises(ConfigError, match="HTTP 401, the key was refused"):
        score_reasoning(endpoint(server.url), TRACES, concurrent=2)
    assert len(server.bodies) <= 2, "one a thread"
    server.script = []
    assert score_reasoning(endpoint(server.url), []) == []
    assert isinstance(endpoint(server.url).rubric_scores(TRACES[0]), RubricScores)
