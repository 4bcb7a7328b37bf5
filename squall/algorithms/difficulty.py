"""ROVA's self-reflective difficulty (arXiv 2603.10652, section 3 and appendix C.2): easy, informative or difficult.

The paper gives two readings of how it is found. In its text the policy's answers about the clean and the corrupted clip are
compared; in its appendix somebody who sees the corrupted clip alone says YES or NO to "is there enough to answer?". Both are
here, each with a confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Literal, Self

from pydantic import Field, model_validator

from squall.algorithms.alignment import RIGHT_ABOVE, answer_similarity, find_references
from squall.algorithms.judging import Verdict
from squall.algorithms.memory import MemoryConfig
from squall.algorithms.rewards import RewardConfig, RewardContext
from squall.platform.config import Config
from squall.platform.records import Branch, ScoredGroup


class Difficulty(StrEnum):
    """How hard a question about a corrupted clip is for the policy as it is."""

    EASY = "easy"
    INFORMATIVE = "informative"
    DIFFICULT = "difficult"


class Decision(StrEnum):
    """What becomes of a question."""

    TRAIN = "train"
    DISCARD = "easy"
    DEFER = "deferred"


class DifficultyConfig(Config):
    """Which questions are trained on now, left out, or put off."""

    reading: Literal["off", "answers", "self", "judge"] = "off"
    """How difficulty is found: not at all; from the policy's answers, after sampling; from its own YES or NO about the
    corrupted clip, before sampling, which then is spared; from the YES or NO of the run's `judge`."""
    confident_above: float = Field(0.8, ge=0, le=1)
    """tau: easy questions of which the policy is surer than this are left out, and counted as `easy`."""
    easy_share: float = Field(1.0, gt=0, le=1)
    """Reading `answers`: easy from this share of answers about the corrupted clip on that are right and agree with the clean
    ones."""
    difficult_share: float = Field(0.0, ge=0, lt=1)
    """Reading `answers`: difficult up to this share of them."""
    memory: MemoryConfig = MemoryConfig()
    """Where difficult questions wait until they are looked at again."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.easy_share <= self.difficult_share:
            raise ValueError(f"easy_share {self.easy_share} must be above difficult_share {self.difficult_share}")
        return self

    @property
    def asks_first(self) -> bool:
        """Whether difficulty is asked for before answers are sampled."""
        return self.reading in ("self", "judge")


@dataclass(frozen=True, slots=True)
class Assessment:
    """A question's difficulty, and how sure of it the policy or the judge is, in [0, 1]."""

    difficulty: Difficulty
    confidence: float


def assess_answers(scored: ScoredGroup, config: DifficultyConfig, rewards: RewardConfig) -> Assessment | None:
    """Difficulty from the share of corrupted answers that are right and agree with what is usual about the clean clip.

    The confidence is the mean over these answers of exp(mean log-probability of their tokens). None without such answers. Where
    no clean answer was sampled, being right is enough.
    """
    group = scored.sampled
    context = RewardContext(group, rewards)
    places = context.indices(Branch.CORRUPTED)
    if not places:
        return None
    usual = rewards.alignment.model_copy(update={"anchor": Branch.CLEAN, "reference": "majority"})
    references = find_references(usual, group, context.answers, context.accuracies)

    def good(place: int) -> bool:
        usual_answer = None if references[place] is None else context.answers[references[place]]
        agrees = usual_answer is None or answer_similarity(context.answers[place], usual_answer, group.sample.problem_type) > 0
        return agrees and context.accuracies[place] > RIGHT_ABOVE

    share = sum(map(good, places)) / len(places)
    confidence = fmean(math.exp(fmean(group.rollouts[i].logprobs)) if group.rollouts[i].logprobs else 0.0 for i in places)
    if share >= config.easy_share:
        return Assessment(Difficulty.EASY, confidence)
    return Assessment(Difficulty.DIFFICULT if share <= config.difficult_share else Difficulty.INFORMATIVE, confidence)


def assess_verdict(verdict: Verdict | None, config: DifficultyConfig) -> Assessment | None:
    """Difficulty from YES or NO: NO is difficult; YES is easy when surer than tau, else informative.

    None without a verdict that could be read.
    """
    if verdict is None:
        return None
    if not verdict.answerable:
        return Assessment(Difficulty.DIFFICULT, verdict.confidence)
    easy = verdict.confidence > config.confident_above
    return Assessment(Difficulty.EASY if easy else Difficulty.INFORMATIVE, verdict.confidence)


def decide(assessment: Assessment | None, config: DifficultyConfig) -> Decision:
    """Train on what is informative, or easy without being sure; leave out what is easy and sure; put off what is difficult.

    A question without an assessment is trained on.
    """
    if assessment is None or assessment.difficulty is Difficulty.INFORMATIVE:
        return Decision.TRAIN
    if assessment.difficulty is Difficulty.DIFFICULT:
        return Decision.DEFER
    return Decision.DISCARD if assessment.confidence > config.confident_above else Decision.TRAIN
