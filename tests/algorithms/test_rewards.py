"""Rewards: published fixtures, what is mended by default, and what a user's own reward may get wrong."""

from __future__ import annotations

import math
import sys
import types

import pytest

from squall.algorithms.accuracy import accuracy, benchmark_accuracy, majority_answer, mean_relative_accuracy, parse_number
from squall.algorithms.rewards import (
    REWARDS,
    RewardConfig,
    format_score,
    length_bonus,
    load_rewards,
    score_group,
    temporal,
)
from squall.platform.config import validate
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    VideoSample,
)

CHOICE, NUMERICAL, REGRESSION = ProblemType.MULTIPLE_CHOICE, ProblemType.NUMERICAL, ProblemType.REGRESSION
CLEAN, CORRUPTED, SHUFFLED = Branch.CLEAN, Branch.CORRUPTED, Branch.SHUFFLED


def group(rollouts: list[tuple[Branch, str, int]], problem_type=CHOICE, solution="B") -> SampledGroup:
    sample = VideoSample("clip-7", "clip-7.mp4", MediaType.VIDEO, "Which?", problem_type, solution)
    made = tuple(
        Rollout(
            sample.id, f"a{i}", branch, "0" * 32, i, SamplingSpec(), (1,) * length, text, (0.0,) * length, 0, "stop"
        )
        for i, (branch, text, length) in enumerate(rollouts)
    )
    return SampledGroup("g0", sample, "prompt", None, {}, made)


def said(answer: str) -> str:
    return f"<think>because</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    "answer, score",
    [
        ("B", 1),
        ("b", 1),
        ("B.", 1),
        ("(B)", 1),
        ("(b)", 1),
        ("B. blue", 1),
        ("B) blue", 1),
        ("B: blue", 1),
        (" B ", 1),
        ("C", 0),
        ("C. B", 0),
        ("AB", 0),
        ("B or C", 0),
        ("", 0),
    ],
)
def test_multiple_choice_reads_the_option_letter(answer, score):
    assert accuracy(answer, "B", CHOICE) == score
    assert accuracy(answer, "B. blue", CHOICE) == score
    assert accuracy(answer, "B", CHOICE, published_quirks=True) == (answer.strip() == "B")


def test_multiple_choice_compares_words_when_the_solution_is_no_letter():
    assert accuracy("A  red car", "a red car", CHOICE) == 1
    assert accuracy("A", "a red car", CHOICE) == 0


@pytest.mark.parametrize(
    "answer, solution, score, published",
    [
        ("3.0", "3", 1, 0),
        ("3", "3.0", 1, 0),
        ("1,000", "1000", 1, 0),
        ("3.004", "3.00", 1, 1),
        ("3.01", "3.02", 0, 0),
        ("3,5", "35.0", 0, 1),
        ("-2", "-2", 1, 1),
        ("three", "3", 0, 0),
        ("nan", "nan", 0, 0),
        ("inf", "inf", 0, 0),
        ("", "3", 0, 0),
    ],
)
def test_numerical(answer, solution, score, published):
    assert accuracy(answer, solution, NUMERICAL) == score
    assert accuracy(answer, solution, NUMERICAL, published_quirks=True) == published


@pytest.mark.parametrize(
    "text, number",
    [
        ("1,234,567.5", 1234567.5),
        ("+.5", 0.5),
        ("2e3", 2000.0),
        ("1,23", None),
        ("", None),
        ("2e", None),
        (".", None),
        ("1_000", None),
        ("5 m", None),
        ("1e999", None),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == number


def test_regression_fixtures():
    assert accuracy("12", "10", REGRESSION) == pytest.approx(0.8)
    assert accuracy("12", "10", REGRESSION, published_quirks=True) == pytest.approx(0.8, abs=1e-9)
    assert accuracy("0", "0", REGRESSION, published_quirks=True) == 0.0
    assert accuracy("0", "0", REGRESSION) == 1.0
    assert accuracy("0.5", "0", REGRESSION) == 0.0
    assert accuracy("30", "10", REGRESSION) == 0.0
    assert accuracy("-8", "-10", REGRESSION) == pytest.approx(0.8)
    assert accuracy("ten", "10", REGRESSION) == 0.0


def test_ocr_is_one_minus_the_word_error_rate():
    assert accuracy("stop here now", "stop here please", ProblemType.OCR) == pytest.approx(2 / 3)
    assert accuracy("a b c d e", "x", ProblemType.OCR) == 0.0
    assert accuracy("", "x", ProblemType.OCR) == 0.0
    assert accuracy("stop\n here", "stop here", ProblemType.OCR) == 1.0
    assert accuracy("", "", ProblemType.OCR) == 1.0


def test_free_form_is_the_mean_of_three_rouge_scores():
    # unigrams 2 of 3 match, bigrams 1 of 2, longest common subsequence 2 of 3
    assert accuracy("the red car", "the red van", ProblemType.FREE_FORM) == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert accuracy("red", "red", ProblemType.FREE_FORM, published_quirks=True) == pytest.approx(2 / 3)
    assert accuracy("Red", "red", ProblemType.FREE_FORM) == 1.0
    assert accuracy("красный", "красный", ProblemType.FREE_FORM) == 1.0


def test_a_missing_answer_scores_nothing():
    assert [accuracy(None, "", problem_type) for problem_type in ProblemType] == [0.0] * 5


def test_format_wants_think_then_answer_and_nothing_else():
    assert format_score("<think>x</think>\n<answer>B</answer>") == 1.0
    assert format_score("<answer>B</answer><think>x</think>") == 0.0
    assert format_score("so <think>x</think><answer>B</answer>") == 0.0
    assert format_score("B") == 0.0


def test_majority_counts_meanings_and_breaks_ties_by_first_occurrence():
    assert majority_answer(["(b)", "A", "B. blue"], CHOICE) == "B"
    assert majority_answer(["A", "B", "B", "A"], CHOICE) == "A"
    assert majority_answer([None, None, "C"], CHOICE) == "C"
    assert majority_answer([None], CHOICE) is None
    assert majority_answer(["3", "4", "3.00"], NUMERICAL) == "3.0"


def test_length_bonus_fixture():
    assert length_bonus([1, 1, 0], [320, 513, 400]) == [0.2, 0.0, 0.0]
    assert length_bonus([0.11, 0.2], [512, 319]) == [0.2, 0.0]
    assert length_bonus([1, 0.1, 0], [400, 400, 400]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("answer, solution, score", [
    ("100", "100", 1.0), ("95", "100", 0.9), ("105", "100", 0.9), ("95.1", "100", 1.0), ("51", "100", 0.1), ("50", "100", 0.0),
    ("250", "100", 0.0), ("7.5", "10", 0.5), ("-7.6", "-10", 0.6), ("0", "0", 1.0), ("0.1", "0", 0.0), ("ten", "10", 0.0),
    (None, "10", 0.0),
])
def test_mean_relative_accuracy_counts_thresholds(answer: str | None, solution: str, score: float):
    assert mean_relative_accuracy(answer, solution) == pytest.approx(score)
    assert benchmark_accuracy(answer, solution, REGRESSION) == pytest.approx(score)


def test_benchmark_accuracy_is_accuracy_but_for_estimates():
    assert benchmark_accuracy("(b) blue", "B", CHOICE) == accuracy("(b) blue", "B", CHOICE) == 1.0
    assert benchmark_accuracy("3", "3.0", NUMERICAL, published_quirks=True) == 0.0
    assert accuracy("9", "10", REGRESSION) == pytest.approx(0.9) and benchmark_accuracy("9", "10", REGRESSION) == 0.8
    scored = score_group(group([(CLEAN, said("9"), 3)], REGRESSION, "10"), RewardConfig(weights={"benchmark_accuracy": 1.0}))
    assert scored.rewards[0] == pytest.approx({"accuracy": 0.9, "benchmark_accuracy": 0.8})


def test_temporal():
    assert temporal([1, 1, 0, 0], [1, 0, 0, 0]) == [1, 1, 0, 0]
    assert temporal([1, 1, 0, 0], [1, 0]) == [0, 0, 0, 0]
    assert temporal([0, 0], [0]) == [0, 0]
    assert temporal([1], []) == [0]


def test_score_group_by_branch():
    rollouts = [
        (CLEAN, said("A"), 400),
        (CLEAN, said("b"), 400),
        (CLEAN, said("(B)"), 400),
        (CORRUPTED, said("B"), 320),
        (CORRUPTED, "B", 320),
        (CORRUPTED, said("B"), 5),
        (SHUFFLED, said("A"), 5),
        (SHUFFLED, said("A"), 5),
    ]
    scored = score_group(group(rollouts), RewardConfig(weights=dict.fromkeys(REWARDS, 1.0)))
    columns = {name: [row[name] for row in scored.rewards] for name in REWARDS}
    assert columns == {
        "accuracy": [0, 1, 1, 1, 0, 1, 0, 0],
        "benchmark_accuracy": [0, 1, 1, 1, 0, 1, 0, 0],
        "format": [1, 1, 1, 1, 0, 1, 1, 1],
        "consistency": [0, 1, 1, 1, 0, 1, 0, 0],
        "reasoning": [1, 1, 1, 1, 0, 1, 0, 0],
        "alignment": [0.3, 1, 1, 1, 0, 1, 0, 0],
        "length": [0, 1, 1, 1, 0, 0, 0, 0],
        "temporal": [0, 1, 1, 1, 0, 1, 0, 0],
    }


def test_accuracy_is_always_scored():
    assert score_group(group([(CLEAN, said("B"), 3)]), RewardConfig(weights={"format": 1.0})).rewards == (
        {"accuracy": 1.0, "format": 1.0},
    )


@pytest.fixture
def user_module(monkeypatch):
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


def test_a_user_reward_is_found_by_name(user_module):
    user_module.short = lambda context: [1.0 / len(rollout.token_ids) for rollout in context.group.rollouts]
    scored = score_group(group([(CLEAN, "x", 4), (CLEAN, "x", 2)]), RewardConfig(weights={"my_rewards:short": 1.0}))
    assert [row["my_rewards:short"] for row in scored.rewards] == [0.25, 0.5]


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere_at_all:f", "No module named 'nowhere_at_all'"),
        ("my_rewards:absent", "no attribute 'absent'"),
        ("my_rewards:VALUE", "int, not a function"),
        (":f", "Empty module name"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_named(user_module, name, message):
    user_module.VALUE = 3
    with pytest.raises(ConfigError, match=message) as error:
        load_rewards(RewardConfig(weights={name: 1.0}))
    assert f"'{name}'" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "returned, kind, message",
    [
        ([1.0], ConfigError, "returned 1 numbers for sample clip-7; expected 2"),
        (None, ConfigError, "returned NoneType for sample clip-7"),
        ([1.0, math.nan], DataError, "not finite for sample clip-7"),
    ],
)
def test_a_reward_that_returns_nonsense_is_refused(user_module, returned, kind, message):
    user_module.bad = lambda context: returned
    with pytest.raises(kind, match=message):
        score_group(group([(CLEAN, "x", 1)] * 2), RewardConfig(weights={"my_rewards:bad": 1.0}))


def test_a_reward_that_fails_is_an_error_and_not_a_zero(user_module):
    def broken(context):
        raise KeyError("judge\nanswer")

    user_module.broken = broken
    with pytest.raises(DataError, match="'my_rewards:broken' failed on sample clip-7: KeyError") as error:
        score_group(group([(CLEAN, "x", 1)]), RewardConfig(weights={"my_rewards:broken": 1.0}))
    assert error.value.reason == "reward_error" and error.value.sample_id == "clip-7"


def test_unknown_reward_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown reward 'acuracy'. Did you mean 'accuracy'?"):
        validate(RewardConfig, {"weights": {"acuracy": 1.0}}, "test")
    with pytest.raises(ConfigError, match="weight of reward 'format' is nan"):
        validate(RewardConfig, {"weights": {"format": math.nan}}, "test")
