"""Rewards of an answer: accuracy by problem type, format, consistency with the clean answers, length, temporal.

Pure functions; an actor runs them on workers. `REWARDS` holds the built-in ones, and ``module:function`` names a
user's own. Sources: Video-R1 (arXiv 2503.21776) and ROVA (arXiv 2603.10652), whose published code differs from what
it says in a few places; `RewardConfig.published_quirks` brings those back.
"""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pydantic import Field, field_validator

from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError, nearest
from squall.platform.prompts import FORMAT_PATTERN, extract_answer
from squall.platform.records import Branch, ProblemType, SampledGroup, ScoredGroup

PUBLISHED_CORRECT_ABOVE = 0.1
"""Video-R1's code counts a graded answer as correct above this accuracy."""

_OPTION_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)]+|\)?[.:]?\s*$)(?:\s.*)?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?")


class RewardConfig(Config):
    """Which rewards are computed and how they add up."""

    weights: dict[str, float] = Field(
        default={"accuracy": 1.0, "format": 1.0, "consistency": 0.0, "temporal": 0.0}, min_length=1
    )
    """Weight per reward: a built-in name or ``module:function``. Weight 0 computes and logs without training on it."""
    length_bonus_tokens: tuple[int, int] = (320, 512)
    """Inclusive range of answer lengths, in tokens, that the ``length`` reward favours."""
    published_quirks: bool = False
    """Score as Video-R1's code does, including where it is wrong: "3.0" is not 3, an exact 0 scores 0 (docs)."""

    @field_validator("weights")
    @classmethod
    def _known_and_finite(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if ":" not in name and name not in REWARDS:
                raise ValueError(
                    f"unknown reward '{name}'.{nearest(name, REWARDS)} Allowed: {', '.join(REWARDS)} or module:function"
                )
            if not math.isfinite(weight):
                raise ValueError(f"weight of reward '{name}' is {weight}; a finite number is needed")
        return weights


@dataclass(frozen=True)
class RewardContext:
    """What a reward function sees: one group, and what all rewards need from it, computed once."""

    group: SampledGroup
    config: RewardConfig

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """The answer of each rollout, in the order of ``group.rollouts``; None where there is no answer tag."""
        return tuple(extract_answer(rollout.text) for rollout in self.group.rollouts)

    @cached_property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy in [0, 1] of each rollout, in the order of ``group.rollouts``."""
        sample, quirks = self.group.sample, self.config.published_quirks
        return tuple(accuracy(answer, sample.solution, sample.problem_type, quirks) for answer in self.answers)

    def indices(self, branch: Branch) -> list[int]:
        """Positions in ``group.rollouts`` of one branch."""
        return [i for i, rollout in enumerate(self.group.rollouts) if rollout.branch == branch]


RewardFunction = Callable[[RewardContext], Sequence[float]]
"""Returns one finite, unweighted number per rollout, in the order of ``context.group.rollouts``."""


def score_group(group: SampledGroup, config: RewardConfig) -> ScoredGroup:
    """Compute every configured reward, and accuracy always, for all rollouts of a group.

    Raises:
        ConfigError: a user's reward cannot be imported or does not return one number per rollout.
        DataError: a reward failed on this sample or is not finite (reason ``reward_error``); it is never taken as 0.
    """
    context = RewardContext(group, config)
    columns = {name: _evaluate(name, reward, context) for name, reward in load_rewards(config).items()}
    rows = ({name: column[i] for name, column in columns.items()} for i in range(len(group.rollouts)))
    return ScoredGroup(group, tuple(rows))


def load_rewards(config: RewardConfig) -> dict[str, RewardFunction]:
    """Find the configured reward functions; call it before any actor starts. Accuracy is always among them."""
    return {name: REWARDS.get(name) or _import_reward(name) for name in ("accuracy", *config.weights)}


# --- accuracy by problem type (ROVA and Video-R1, reward code) ---


def accuracy(answer: str | None, solution: str, problem_type: ProblemType, published_quirks: bool = False) -> float:
    """Score an answer against the solution, in [0, 1]. A missing answer scores 0."""
    if answer is None:
        return 0.0
    return _SCORERS[ProblemType(problem_type)](answer.strip(), solution.strip(), published_quirks)


def _multiple_choice(answer: str, solution: str, quirks: bool) -> float:
    if quirks:
        return float(answer == solution)
    return float(
        canonical_answer(answer, ProblemType.MULTIPLE_CHOICE) == canonical_answer(solution, ProblemType.MULTIPLE_CHOICE)
    )


def _numerical(answer: str, solution: str, quirks: bool) -> float:
    if quirks and bool(set(answer) & set(".,")) != bool(set(solution) & set(".,")):
        return 0.0
    given, wanted = parse_number(answer, quirks), parse_number(solution, quirks)
    return float(given is not None and wanted is not None and round(given, 2) == round(wanted, 2))


def _ocr(answer: str, solution: str, quirks: bool) -> float:
    import jiwer

    reference, hypothesis = " ".join(solution.split()), " ".join(answer.split())
    if not reference:
        return float(not hypothesis)
    return min(1.0, max(0.0, 1.0 - jiwer.wer(reference, hypothesis)))


def _free_form(answer: str, solution: str, quirks: bool) -> float:
    # ROUGE-2 of a one-word answer is 0, so that a perfect one scores 2/3; and ROUGE drops every non-Latin letter.
    if not quirks and _plain(answer) == _plain(solution):
        return 1.0
    scores = _rouge_scorer().score(solution, answer)
    return sum(score.fmeasure for score in scores.values()) / len(scores)


def _regression(answer: str, solution: str, quirks: bool) -> float:
    given, wanted = parse_number(answer, quirks), parse_number(solution, quirks)
    if given is None or wanted is None:
        return 0.0
    error = abs(given - wanted)
    if quirks:
        return 1.0 - min(1.0, (error + 1e-9) / (abs(wanted) + 1e-9))
    if wanted == 0.0:
        return float(error < 1e-9)
    return 1.0 - min(1.0, error / abs(wanted))


_SCORERS: Mapping[ProblemType, Callable[[str, str, bool], float]] = {
    ProblemType.MULTIPLE_CHOICE: _multiple_choice,
    ProblemType.NUMERICAL: _numerical,
    ProblemType.OCR: _ocr,
    ProblemType.FREE_FORM: _free_form,
    ProblemType.REGRESSION: _regression,
}


def canonical_answer(answer: str, problem_type: ProblemType) -> str:
    """One spelling for answers that mean the same: "(b)" and "B. blue" become "B"; "3" and "3.00" become "3.0"."""
    if problem_type == ProblemType.MULTIPLE_CHOICE:
        letter = _OPTION_LETTER.fullmatch(answer.strip())
        return letter.group(1).upper() if letter else _plain(answer)
    if problem_type in (ProblemType.NUMERICAL, ProblemType.REGRESSION):
        number = parse_number(answer)
        return _plain(answer) if number is None else repr(round(number, 2) + 0.0)
    return _plain(answer)


def parse_number(text: str, published_quirks: bool = False) -> float | None:
    """Read "1,000", "-3.5" or "2e3"; None for anything else, such as "3,5", "about 3" or "nan".

    With `published_quirks` every comma is dropped, so that "3,5" reads as 35.
    """
    if not published_quirks and not _NUMBER.fullmatch(text.strip()):
        return None
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


# --- the other rewards, as functions of plain values ---


def format_score(text: str) -> float:
    """1 when the whole text is a think block followed by an answer block, else 0 (ROVA, r^F)."""
    return float(FORMAT_PATTERN.fullmatch(text) is not None)


def majority_answer(answers: Sequence[str | None], problem_type: ProblemType) -> str | None:
    """The most frequent canonical answer; a tie goes to the first to occur, missing answers do not vote."""
    votes = Counter(canonical_answer(answer, problem_type) for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None  # most_common keeps first-seen order among equals


def consistency(answer: str | None, majority: str | None, problem_type: ProblemType = ProblemType.FREE_FORM) -> float:
    """1 when the answer means the same as the majority clean answer, else 0; 0 when either is missing.

    ROVA's Sim_a, but against the majority of the clean branch and not a clean rollout that shares an index by chance.
    """
    if answer is None or majority is None:
        return 0.0
    return float(canonical_answer(answer, problem_type) == canonical_answer(majority, problem_type))


def alignment(reasoning_similarity: float, answer_similarity: float) -> float:
    """ROVA's r^A = 0.3 Sim_r + 0.7 Sim_a; Sim_r in {0, 0.5, 1}, Sim_a in {0, 1}."""
    return 0.3 * reasoning_similarity + 0.7 * answer_similarity


def length_bonus(
    accuracies: Sequence[float],
    token_counts: Sequence[int],
    token_range: tuple[int, int] = (320, 512),
    bonus: float = 0.2,
) -> list[float]:
    """Bonus for correct answers whose length lies in the range, if at least two answers are correct (Video-R1)."""
    correct = [value > PUBLISHED_CORRECT_ABOVE for value in accuracies]
    if sum(correct) < 2:
        return [0.0] * len(correct)
    low, high = token_range
    return [bonus * (hit and low <= count <= high) for hit, count in zip(correct, token_counts, strict=True)]


def temporal(accuracies: Sequence[float], shuffled_accuracies: Sequence[float]) -> list[float]:
    """1 for correct answers about ordered frames when they are right more often than those about shuffled frames."""
    if not accuracies or not shuffled_accuracies:
        return [0.0] * len(accuracies)
    ordered_mean = sum(accuracies) / len(accuracies)
    better = ordered_mean > sum(shuffled_accuracies) / len(shuffled_accuracies)
    return [float(better and value > PUBLISHED_CORRECT_ABOVE) for value in accuracies]


# --- the registry ---


def _accuracy_reward(context: RewardContext) -> Sequence[float]:
    """Right or wrong against the solution, by problem type; in [0, 1]."""
    return context.accuracies


def _format_reward(context: RewardContext) -> Sequence[float]:
    """1 for a think block, then an answer block, and nothing else."""
    return [format_score(rollout.text) for rollout in context.group.rollouts]


def _consistency_reward(context: RewardContext) -> Sequence[float]:
    """1 for the answer that most of the clean answers give."""
    problem_type = context.group.sample.problem_type
    majority = majority_answer([context.answers[i] for i in context.indices(Branch.CLEAN)], problem_type)
    return [consistency(answer, majority, problem_type) for answer in context.answers]


def _length_reward(context: RewardContext) -> Sequence[float]:
    """1 for right answers of `length_bonus_tokens` tokens, when two or more of the branch are right."""
    lengths = [len(rollout.token_ids) for rollout in context.group.rollouts]
    return _per_branch(
        context,
        lambda indices: length_bonus(
            [context.accuracies[i] for i in indices],
            [lengths[i] for i in indices],
            context.config.length_bonus_tokens,
            bonus=1.0,
        ),
    )


def _temporal_reward(context: RewardContext) -> Sequence[float]:
    """1 for right answers when the branch is right more often than the shuffled one."""
    shuffled = [context.accuracies[i] for i in context.indices(Branch.SHUFFLED)]
    return _per_branch(context, lambda indices: temporal([context.accuracies[i] for i in indices], shuffled))


def _per_branch(context: RewardContext, reward: Callable[[list[int]], list[float]]) -> list[float]:
    values = [0.0] * len(context.group.rollouts)
    for branch in Branch:
        indices = context.indices(branch)
        for i, value in zip(indices, reward(indices), strict=True):
            values[i] = value
    return values


# The first line of each one's docstring is what `squall reward` lists.
REWARDS: Mapping[str, RewardFunction] = {
    "accuracy": _accuracy_reward,
    "format": _format_reward,
    "consistency": _consistency_reward,
    "length": _length_reward,
    "temporal": _temporal_reward,
}


def _import_reward(name: str) -> RewardFunction:
    module_name, _, function_name = name.partition(":")
    try:
        reward = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"reward '{name}': {error}. Expected module:function, importable by the workers") from error
    if not callable(reward):
        raise ConfigError(f"reward '{name}': {function_name} is a {type(reward).__name__}, not a function")
    return reward


def _evaluate(name: str, reward: RewardFunction, context: RewardContext) -> list[float]:
    sample_id, expected = context.group.sample.id, len(context.group.rollouts)
    try:
        returned = reward(context)
    except Exception as error:
        problem = f"reward '{name}' failed on sample {sample_id}: {type(error).__name__}: {error}"
        raise DataError(" ".join(problem.split()), sample_id=sample_id, reason="reward_error") from error
    try:
        values = [float(value) for value in returned]
    except (TypeError, ValueError):
        raise ConfigError(
            f"reward '{name}': returned {type(returned).__name__} for sample {sample_id};"
            f" expected {expected} numbers, one per rollout"
        ) from None
    if len(values) != expected:
        raise ConfigError(
            f"reward '{name}': returned {len(values)} numbers for sample {sample_id};"
            f" expected {expected}, one per rollout"
        )
    if not all(map(math.isfinite, values)):
        raise DataError(
            f"reward '{name}': returned a value that is not finite for sample {sample_id}: {values}",
            sample_id=sample_id,
            reason="reward_error",
        )
    return values
