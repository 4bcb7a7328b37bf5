"""Difficulty in both readings, and what it decides."""

from __future__ import annotations

import math

import pytest

from squall.algorithms.alignment import AlignmentConfig
from squall.algorithms.difficulty import (
    Assessment,
    Decision,
    Difficulty,
    DifficultyConfig,
    assess_answers,
    assess_verdict,
    decide,
)
from squall.algorithms.judging import Verdict
from squall.algorithms.rewards import RewardConfig, score_group
from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    VideoSample,
)

EASY, INFORMATIVE, DIFFICULT = Difficulty.EASY, Difficulty.INFORMATIVE, Difficulty.DIFFICULT
ANSWERS = DifficultyConfig(reading="answers")


def scored(clean: str, corrupted: str, logprob: float = math.log(0.5)) -> ScoredGroup:
    """Answers as letters; B is right. Every answer has two tokens of the same log-probability."""
    sample = VideoSample("s", "s.mp4", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "B")
    rollouts = tuple(
        Rollout("s", "a", branch, "h", i, SamplingSpec(), (1, 2), f"<think>x</think><answer>{letter}</answer>",
                (logprob, logprob), 0, "stop")
        for branch, letters in ((Branch.CLEAN, clean), (Branch.CORRUPTED, corrupted)) for i, letter in enumerate(letters))
    return score_group(SampledGroup("g", sample, "", None, {}, rollouts), RewardConfig())


@pytest.mark.parametrize(("clean", "corrupted", "difficulty"), [
    ("BB", "BBBB", EASY),
    ("BB", "BBBA", INFORMATIVE),
    ("BB", "AAAA", DIFFICULT),  # strongly divergent
    ("AA", "AAAA", DIFFICULT),  # consistent, and wrong
    ("AA", "BBBB", DIFFICULT),  # right, and unlike the clean ones: nothing to build on
    ("", "BBBB", EASY),
    ("", "AABA", INFORMATIVE),
])
def test_difficulty_from_answers(clean: str, corrupted: str, difficulty: Difficulty) -> None:
    found = assess_answers(scored(clean, corrupted), ANSWERS, RewardConfig())
    assert found.difficulty is difficulty
    assert found.confidence == pytest.approx(0.5)


def test_the_shares_that_make_a_question_easy_or_difficult_can_be_set() -> None:
    config = DifficultyConfig(reading="answers", easy_share=0.75, difficult_share=0.25)
    assert assess_answers(scored("B", "BBBA"), config, RewardConfig()).difficulty is EASY
    assert assess_answers(scored("B", "BAAA"), config, RewardConfig()).difficulty is DIFFICULT
    assert assess_answers(scored("B", "BBAA"), config, RewardConfig()).difficulty is INFORMATIVE


def test_the_usual_clean_answer_counts_whatever_alignment_holds_answers_against() -> None:
    rewards = RewardConfig(alignment=AlignmentConfig(anchor=Branch.CORRUPTED, reference="paired"))
    assert assess_answers(scored("BBA", "BBB"), ANSWERS, rewards).difficulty is EASY


def test_without_corrupted_answers_there_is_no_assessment() -> None:
    assert assess_answers(scored("BB", ""), ANSWERS, RewardConfig()) is None


@pytest.mark.parametrize(("verdict", "difficulty"), [
    (Verdict(True, 0.9), EASY), (Verdict(True, 0.8), INFORMATIVE), (Verdict(False, 0.9), DIFFICULT),
    (Verdict(False, 0.1), DIFFICULT),
])
def test_difficulty_from_a_verdict(verdict: Verdict, difficulty: Difficulty) -> None:
    assert assess_verdict(verdict, DifficultyConfig(reading="self")) == Assessment(difficulty, verdict.confidence)


@pytest.mark.parametrize(("assessment", "decision"), [
    (Assessment(EASY, 0.81), Decision.DISCARD), (Assessment(EASY, 0.8), Decision.TRAIN),
    (Assessment(INFORMATIVE, 0.99), Decision.TRAIN), (Assessment(DIFFICULT, 0.0), Decision.DEFER), (None, Decision.TRAIN),
])
def test_what_difficulty_decides(assessment: Assessment | None, decision: Decision) -> None:
    assert decide(assessment, ANSWERS) is decision


def test_a_verdict_that_could_not_be_read_is_no_assessment() -> None:
    assert assess_verdict(None, DifficultyConfig(reading="self")) is None


def test_shares_that_overlap_are_refused() -> None:
    with pytest.raises(ConfigError, match="easy_share 0.5 must be above difficult_share 0.5"):
        validate(DifficultyConfig, {"easy_share": 0.5, "difficult_share": 0.5}, where="x")
