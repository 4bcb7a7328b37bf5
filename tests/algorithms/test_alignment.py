"""Alignment: what an answer is held against, what is compared, and what agreeing earns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from squall.algorithms.alignment import AlignmentConfig, answer_similarity
from squall.algorithms.rewards import RewardConfig, RewardContext, alignment, score_group
from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    VideoSample,
)

CLEAN, CORRUPTED, SHUFFLED = Branch.CLEAN, Branch.CORRUPTED, Branch.SHUFFLED
JUDGED = {"accuracy": 1.0, "format": 1.0, "alignment": 1.0, "reasoning": 0.0, "consistency": 0.0}


def group(*rollouts: tuple[Branch, str, str | None], solution: str = "B") -> SampledGroup:
    """Rollouts as (branch, answer, reasoning); the index counts within the branch."""
    sample = VideoSample("clip-7", "clip-7.mp4", MediaType.VIDEO, "Which?", ProblemType.MULTIPLE_CHOICE, solution)
    made = []
    for branch, answer, thought in rollouts:
        text = f"<answer>{answer}</answer>" if thought is None else f"<think>{thought}</think><answer>{answer}</answer>"
        index = sum(rollout.branch is branch for rollout in made)
        made.append(Rollout(sample.id, "a", branch, "0" * 32, index, SamplingSpec(), (1,), text, (0.0,), 0, "stop"))
    return SampledGroup("g0", sample, "prompt", None, {}, tuple(made))


class Recorder:
    """A judge that notes what it is asked and finds everything half alike."""

    def __init__(self, value: float = 0.5) -> None:
        self.calls: list[list[tuple[str, str]]] = []
        self.value = value

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(list(pairs))
        return [self.value] * len(pairs)


def context(sampled: SampledGroup, judge: Recorder | None = None, **config: object) -> RewardContext:
    return RewardContext(sampled, RewardConfig(weights=JUDGED, alignment=AlignmentConfig(**config)), judge or Recorder())


def test_published_fixture() -> None:
    """Sim_r 0.5, Sim_a 1, format 1 and accuracy 1 make R = 2.85."""
    judge = Recorder()
    scored = score_group(group((CLEAN, "B", "a red car"), (CORRUPTED, "B", "a car")), RewardConfig(weights=JUDGED), judge)
    row = scored.rewards[1]
    assert row["accuracy"] + row["format"] + row["alignment"] == pytest.approx(2.85)
    assert (row["reasoning"], row["consistency"]) == (0.5, 1.0)
    assert alignment(0.5, 1.0, AlignmentConfig()) == pytest.approx(0.85)


@pytest.mark.parametrize(("answer", "reference", "kind", "similarity"), [
    ("b.", "B", ProblemType.MULTIPLE_CHOICE, 1.0), ("3", "3.00", ProblemType.NUMERICAL, 1.0),
    ("A", "B", ProblemType.MULTIPLE_CHOICE, 0.0), (None, "B", ProblemType.MULTIPLE_CHOICE, 0.0),
    ("B", None, ProblemType.MULTIPLE_CHOICE, 0.0),
])
def test_answers_that_mean_the_same_agree(answer: str | None, reference: str | None, kind: ProblemType,
                                          similarity: float) -> None:
    assert answer_similarity(answer, reference, kind) == similarity


def test_a_corrupted_answer_is_held_against_the_usual_clean_one() -> None:
    judge = Recorder()
    sampled = group((CLEAN, "A", "no"), (CLEAN, "B", "yes one"), (CLEAN, "(b)", "yes two"), (CORRUPTED, "B", "mine"),
                    (SHUFFLED, "B", "not compared"))
    found = context(sampled, judge)
    assert found.references == (1,) * 5
    assert found.reasoning_similarities == (1.0, 1.0, 1.0, 0.5, 0.0)
    assert judge.calls == [[("mine", "yes one")]], "the judge is asked once, about trained branches other than the anchor"
    assert found.answer_similarities == (0.0, 1.0, 1.0, 1.0, 1.0)


def test_the_judge_is_asked_once_for_all_rewards_of_a_group() -> None:
    judge = Recorder()
    sampled = group((CLEAN, "B", "same"), *((CORRUPTED, "B", f"mine {i}") for i in range(3)))
    score_group(sampled, RewardConfig(weights=JUDGED), judge)
    assert [len(pairs) for pairs in judge.calls] == [3]


def test_without_a_share_for_the_reasoning_no_judge_is_asked() -> None:
    judge = Recorder()
    config = RewardConfig(weights={"alignment": 1.0}, alignment=AlignmentConfig(reasoning_weight=0.0))
    scored = score_group(group((CLEAN, "B", "x"), (CORRUPTED, "B", "y")), config, judge)
    assert judge.calls == [] and not config.needs_judge
    assert scored.rewards[1]["alignment"] == pytest.approx(0.7)
    assert RewardConfig(weights=JUDGED).needs_judge


def test_paired_holds_each_against_the_one_of_its_index_as_published() -> None:
    sampled = group((CLEAN, "A", "first"), (CLEAN, "B", "second"), (CORRUPTED, "A", "x"), (CORRUPTED, "A", "y"),
                    (CORRUPTED, "A", "z"))
    found = context(sampled, reference="paired")
    assert found.references == (0, 1, 0, 1, 0)
    assert found.answer_similarities[2:] == (1.0, 0.0, 1.0)


def test_the_published_code_holds_clean_answers_against_corrupted_ones() -> None:
    sampled = group((CLEAN, "B", "clean"), (CORRUPTED, "B", "dark"))
    judge = Recorder()
    found = context(sampled, judge, anchor="corrupted", reference="paired")
    assert found.references == (1, 1) and found.reasoning_similarities == (0.5, 1.0)
    assert judge.calls == [[("clean", "dark")]]


def test_conditional_takes_the_clean_answer_only_where_it_is_right() -> None:
    right = group((CLEAN, "B", "clean"), (CORRUPTED, "A", "x"))
    assert context(right, reference="conditional").references == (0, 0)
    wrong = group((CLEAN, "A", "clean"), (CORRUPTED, "A", "it is night and rain falls"),
                  (CORRUPTED, "B", "it is night and snow falls"), (CORRUPTED, "B", "something else entirely"))
    assert context(wrong, reference="conditional").references == (2, 2, 3, 2), "the nearest right one by edit distance"
    hopeless = group((CLEAN, "A", "clean"), (CORRUPTED, "A", "x"))
    found = context(hopeless, reference="conditional")
    assert found.references == (None, None) and found.answer_similarities == (0.0, 0.0)


def test_agreeing_on_a_wrong_answer_can_be_excluded() -> None:
    sampled = group((CLEAN, "A", "clean"), (CORRUPTED, "A", "same wrong"), (CORRUPTED, "B", "right"))
    assert context(sampled).answer_similarities == (1.0, 1.0, 0.0), "published: consistently wrong is consistent"
    judge = Recorder()
    found = context(sampled, judge, exclude_wrong=True)
    assert found.answer_similarities == (0.0, 0.0, 0.0)
    assert found.reasoning_similarities == (1.0, 0.0, 0.5) and judge.calls == [[("right", "clean")]]


def test_step_level_compares_segments_with_the_published_weights() -> None:
    class Segments(Recorder):
        def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            super().__call__(pairs)
            return [1.0, 0.5, 0.0]

    judge = Segments()
    text = "Observation: {} car. Reasoning: it moves. Action: answer B."
    found = context(group((CLEAN, "B", text.format("red")), (CORRUPTED, "B", text.format("dark"))), judge, level="step")
    assert found.reasoning_similarities[1] == pytest.approx(0.3 * 1 + 0.5 * 0.5)
    assert judge.calls == [[("dark car.", "red car."), ("it moves.", "it moves."), ("answer B.", "answer B.")]]


def test_reasoning_that_is_missing_on_either_side_holds_0_and_asks_nobody() -> None:
    judge = Recorder()
    assert context(group((CLEAN, "B", None), (CORRUPTED, "B", "x")), judge).reasoning_similarities == (1.0, 0.0)
    assert context(group((CLEAN, "B", "x"), (CORRUPTED, "B", None)), judge).reasoning_similarities == (1.0, 0.0)
    assert context(group((CORRUPTED, "B", "x")), judge).references == (None,)
    assert judge.calls == []


def test_a_shuffled_anchor_is_refused() -> None:
    with pytest.raises(ConfigError, match="'alignment.anchor' = 'shuffled': allowed: clean, corrupted"):
        validate(RewardConfig, {"alignment": {"anchor": "shuffled"}}, where="x")
