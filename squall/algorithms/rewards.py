"""Rewards of an answer: accuracy, format, alignment with the clean answers, length, temporal.

Pure functions; an actor runs them on workers. `REWARDS` holds the built-in ones, and ``module:function`` names a
user's own. Sources: Video-R1 (arXiv 2503.21776) and ROVA (arXiv 2603.10652), whose published code differs from what
it says in a few places; `RewardConfig.published_quirks` brings those back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import Field, field_validator

from squall.algorithms.accuracy import PUBLISHED_CORRECT_ABOVE, accuracy, benchmark_accuracy
from squall.algorithms.alignment import (
    RIGHT_ABOVE,
    AlignmentConfig,
    Compare,
    answer_similarity,
    find_references,
    reasoning_similarities,
)
from squall.algorithms.reasoning import rule_similarity
from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError, nearest
from squall.platform.plugins import import_function
from squall.platform.prompts import FORMAT_PATTERN, extract_answer
from squall.platform.records import Branch, SampledGroup, ScoredGroup

COMPARING = ("consistency", "reasoning", "alignment", "temporal")
"""Rewards that hold answers about one clip against those about another."""


def compare_by_rule(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
    """Similarity of reasoning texts by `rule_similarity`: what compares them where no judge is given."""
    return [rule_similarity(first, second) for first, second in pairs]


LEARNER_REWARDS = {
    "kl_consistency": "exp(-alpha KL) between what the policy expects of either clip along the answer; by the learner."
}
"""Rewards that need the policy's weights: the learner computes them, for the answers that it trains."""


class KLConsistencyConfig(Config):
    """How far an answer's distributions move when the clip is exchanged for its clean or corrupted twin."""

    alpha: float = Field(3.0, gt=0.0)
    """The reward is exp(-alpha KL), KL in nats and a mean over the answer's tokens. ROVA's main script takes 3, another 1."""
    top_k: int | None = Field(None, ge=1)
    """Compare the most probable tokens of the other clip's distribution, this many, and all others as one: never above the
    exact KL. null is exact, over the whole vocabulary."""
    loss_weight: float = Field(0.0, ge=0.0)
    """Coefficient of the mean KL itself as a term of the loss, beside the reward; its gradient leaves the other clip alone.
    ROVA's code has 1."""


class RewardConfig(Config):
    """Which rewards are computed and how they add up."""

    weights: dict[str, float] = Field(
        default={"accuracy": 1.0, "format": 1.0, "consistency": 0.0, "temporal": 0.0}, min_length=1
    )
    """Weight per reward: a built-in name or ``module:function``. Weight 0 computes and logs without training on it."""
    length_bonus_tokens: tuple[int, int] = (320, 512)
    """Inclusive range of answer lengths, in tokens, that the ``length`` reward favours."""
    alignment: AlignmentConfig = AlignmentConfig()
    """What the `consistency`, `reasoning` and `alignment` rewards compare an answer with."""
    published_quirks: bool = False
    """Score as Video-R1's code does, including where it is wrong: "3.0" is not 3, an exact 0 scores 0 (docs)."""
    kl_consistency: KLConsistencyConfig = KLConsistencyConfig()
    """The ``kl_consistency`` reward, which the learner computes, and the loss like it."""

    @field_validator("weights")
    @classmethod
    def _known_and_finite(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            allowed = (*REWARDS, *LEARNER_REWARDS)
            if ":" not in name and name not in allowed:
                raise ValueError(
                    f"unknown reward '{name}'.{nearest(name, allowed)} Allowed: {', '.join(allowed)} or module:function"
                )
            if not math.isfinite(weight):
                raise ValueError(f"weight of reward '{name}' is {weight}; a finite number is needed")
        if all(name in LEARNER_REWARDS for name in weights):
            raise ValueError(
                f"{', '.join(weights)} alone trains nothing: groups whose other rewards are all equal are dropped before the"
                " learner computes it; name another reward too, such as accuracy"
            )
        return weights

    @property
    def needs_judge(self) -> bool:
        """Whether a reward compares reasoning."""
        return "reasoning" in self.weights or ("alignment" in self.weights and self.alignment.reasoning_weight > 0)

    @property
    def compares_clips(self) -> bool:
        """Whether the learner has to pass the trained answers through the policy behind the other clip too."""
        return "kl_consistency" in self.weights or self.kl_consistency.loss_weight > 0


@dataclass(frozen=True)
class RewardContext:
    """What a reward function sees: one group, and what all rewards need from it, computed once."""

    group: SampledGroup
    config: RewardConfig
    compare: Compare = compare_by_rule
    """Judges the similarity of reasoning texts."""

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """The answer of each rollout, in the order of ``group.rollouts``; None where there is no answer tag."""
        return tuple(extract_answer(rollout.text) for rollout in self.group.rollouts)

    @cached_property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy in [0, 1] of each rollout, in the order of ``group.rollouts``."""
        sample, quirks = self.group.sample, self.config.published_quirks
        return tuple(accuracy(answer, sample.solution, sample.problem_type, quirks) for answer in self.answers)

    @cached_property
    def references(self) -> tuple[int | None, ...]:
        """Position in ``group.rollouts`` of what each answer is held against, as `rewards.alignment` says."""
        return find_references(self.config.alignment, self.group, self.answers, self.accuracies)

    @cached_property
    def excluded(self) -> tuple[bool, ...]:
        """Whether an answer earns nothing for agreeing, because it is wrong and `rewards.alignment.exclude_wrong` is set."""
        return tuple(self.config.alignment.exclude_wrong and value <= RIGHT_ABOVE for value in self.accuracies)

    @cached_property
    def answer_similarities(self) -> tuple[float, ...]:
        """Sim_a of each rollout with its reference."""
        kind = self.group.sample.problem_type
        return tuple(
            0.0 if reference is None or excluded else answer_similarity(answer, self.answers[reference], kind)
            for answer, reference, excluded in zip(self.answers, self.references, self.excluded, strict=True)
        )

    @cached_property
    def reasoning_similarities(self) -> tuple[float, ...]:
        """Sim_r of each rollout with its reference; the judge is asked once for the whole group."""
        return reasoning_similarities(self.config.alignment, self.group, self.references, self.excluded, self.compare)

    def indices(self, branch: Branch) -> list[int]:
        """Positions in ``group.rollouts`` of one branch."""
        return [i for i, rollout in enumerate(self.group.rollouts) if rollout.branch == branch]


RewardFunction = Callable[[RewardContext], Sequence[float]]
"""Returns one finite, unweighted number per rollout, in the order of ``context.group.rollouts``."""


def score_group(group: SampledGroup, config: RewardConfig, compare: Compare = compare_by_rule) -> ScoredGroup:
    """Compute every configured reward but the learner's, and accuracy always, for all rollouts of a group.

    Args:
        compare: judges the similarity of reasoning texts.

    Raises:
        ConfigError: a user's reward cannot be imported or does not return one number per rollout.
        DataError: a reward failed on this sample or is not finite (reason ``reward_error``), or the judge gave no verdict
            (its own reason); it is never taken as 0.
    """
    context = RewardContext(group, config, compare)
    columns = {name: _evaluate(name, reward, context) for name, reward in load_rewards(config).items()}
    rows = ({name: column[i] for name, column in columns.items()} for i in range(len(group.rollouts)))
    return ScoredGroup(group, tuple(rows))


def load_rewards(config: RewardConfig) -> dict[str, RewardFunction]:
    """Find the configured reward functions; call it before any actor starts. Accuracy is always among them."""
    names = [name for name in ("accuracy", *config.weights) if name not in LEARNER_REWARDS]
    return {name: REWARDS.get(name) or import_function("reward", name) for name in names}


# --- the other rewards, as functions of plain values ---


def format_score(text: str) -> float:
    """1 when the whole text is a think block followed by an answer block, else 0 (ROVA, r^F)."""
    return float(FORMAT_PATTERN.fullmatch(text) is not None)


def alignment(reasoning_similarity: float, answer_similarity: float, config: AlignmentConfig) -> float:
    """ROVA's r^A = alpha_r Sim_r + alpha_a Sim_a, by default 0.3 and 0.7; both in [0, 1]."""
    return config.reasoning_weight * reasoning_similarity + config.answer_weight * answer_similarity


def kl_consistency(divergence: float, alpha: float) -> float:
    """exp(-alpha KL), 1 when nothing moves; `divergence` is the mean over an answer's tokens, in nats (ROVA's README)."""
    return math.exp(-alpha * divergence)


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


def _benchmark_reward(context: RewardContext) -> Sequence[float]:
    """Accuracy, but mean relative accuracy for estimates, as benchmarks report it."""
    sample, quirks = context.group.sample, context.config.published_quirks
    return [benchmark_accuracy(answer, sample.solution, sample.problem_type, quirks) for answer in context.answers]


def _format_reward(context: RewardContext) -> Sequence[float]:
    """1 for a think block, then an answer block, and nothing else."""
    return [format_score(rollout.text) for rollout in context.group.rollouts]


def _consistency_reward(context: RewardContext) -> Sequence[float]:
    """1 for the answer of the other branch that it is held against: by default what most clean answers say."""
    return context.answer_similarities


def _reasoning_reward(context: RewardContext) -> Sequence[float]:
    """How alike its reasoning is to that of the same answer, as the judge says: 0, 0.5 or 1."""
    return context.reasoning_similarities


def _alignment_reward(context: RewardContext) -> Sequence[float]:
    """Both together: 0.3 of the reasoning and 0.7 of the answer, unless rewards.alignment weighs them otherwise."""
    config, answers = context.config.alignment, context.answer_similarities
    reasoning = context.reasoning_similarities if config.reasoning_weight else (0.0,) * len(answers)
    return [alignment(r, a, config) for r, a in zip(reasoning, answers, strict=True)]


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
    "benchmark_accuracy": _benchmark_reward,
    "format": _format_reward,
    "consistency": _consistency_reward,
    "reasoning": _reasoning_reward,
    "alignment": _alignment_reward,
    "length": _length_reward,
    "temporal": _temporal_reward,
}


def _evaluate(name: str, reward: RewardFunction, context: RewardContext) -> list[float]:
    sample_id, expected = context.group.sample.id, len(context.group.rollouts)
    try:
        returned = reward(context)
    except DataError:  # a judge that gave no verdict says so itself
        raise
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
