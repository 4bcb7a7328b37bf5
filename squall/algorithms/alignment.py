"""How far answers about a corrupted clip agree with those about the clean one: ROVA's r^A (arXiv 2603.10652, section 3).

r^A = alpha_r Sim_r + alpha_a Sim_a. Sim_a compares answers, by rule; Sim_r compares reasoning, by a judge that is handed in.
What an answer is held against, its *reference*, is another answer of the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field, field_validator

from squall.algorithms.accuracy import canonical_answer, majority_answer
from squall.algorithms.reasoning import edit_distance, segments
from squall.platform.config import Config
from squall.platform.prompts import extract_think
from squall.platform.records import Branch, ProblemType, SampledGroup

STEP_WEIGHTS = (0.3, 0.5, 0.2)
"""Observation, reasoning and action in a step-level comparison (ROVA, ablation)."""
RIGHT_ABOVE = 0.5
"""Accuracy above which a reference counts as right."""

Compare = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""Similarity in [0, 1] of each pair of reasoning texts, in order: a judge."""


class AlignmentConfig(Config):
    """What the `consistency`, `reasoning` and `alignment` rewards compare an answer with, and how."""

    anchor: Branch = Branch.CLEAN
    """Branch whose answers the others are held against: `clean`, or `corrupted` where clean answers are trained (optimise:
    clean with corrupted_samples, as in ROVA's published code)."""
    reference: Literal["majority", "paired", "conditional"] = "majority"
    """Which answer: the most frequent of the anchor branch; the one that has the same index, as published; or the most frequent
    if it is right, else the right answer of the group whose reasoning is nearest by edit distance (ROVA, ablation)."""
    level: Literal["trace", "step"] = "trace"
    """Compare whole reasoning texts, or observation, reasoning and action apart, weighted 0.3, 0.5, 0.2 (ROVA, ablation)."""
    reasoning_weight: float = Field(0.3, ge=0)
    """alpha_r: share of the reasoning in the `alignment` reward. 0 asks no judge."""
    answer_weight: float = Field(0.7, ge=0)
    """alpha_a: share of the answer."""
    exclude_wrong: bool = False
    """Give nothing for agreeing on a wrong answer. Published: consistently wrong answers earn as much as right ones."""

    @field_validator("anchor")
    @classmethod
    def _no_shuffled_anchor(cls, anchor: Branch) -> Branch:
        if anchor is Branch.SHUFFLED:
            raise ValueError("allowed: clean, corrupted")
        return anchor


def find_references(config: AlignmentConfig, group: SampledGroup, answers: Sequence[str | None],
                    accuracies: Sequence[float]) -> tuple[int | None, ...]:
    """Position in ``group.rollouts`` of what each answer is held against; None where there is nothing to hold it against."""
    anchors = [i for i, rollout in enumerate(group.rollouts) if rollout.branch is config.anchor]
    if config.reference == "paired":
        return tuple(anchors[rollout.index % len(anchors)] if anchors else None for rollout in group.rollouts)
    usual = _usual(anchors, answers, group.sample.problem_type)
    if config.reference == "majority" or (usual is not None and accuracies[usual] > RIGHT_ABOVE):
        return (usual,) * len(group.rollouts)
    right = [i for i, rollout in enumerate(group.rollouts) if rollout.branch is not Branch.SHUFFLED
             and accuracies[i] > RIGHT_ABOVE]
    return tuple(_nearest(i, right, group) for i in range(len(group.rollouts)))


def _usual(anchors: Sequence[int], answers: Sequence[str | None], problem_type: ProblemType) -> int | None:
    """The first anchor that gives the answer most of them give."""
    majority = majority_answer([answers[i] for i in anchors], problem_type)
    return next((i for i in anchors if answers[i] is not None and canonical_answer(answers[i], problem_type) == majority), None)


def _nearest(own: int, right: Sequence[int], group: SampledGroup) -> int | None:
    def distance(other: int) -> float:
        return edit_distance(extract_think(group.rollouts[own].text) or "", extract_think(group.rollouts[other].text) or "")

    return min((i for i in right if i != own), key=distance, default=None)


def answer_similarity(answer: str | None, reference: str | None, problem_type: ProblemType) -> float:
    """Sim_a: 1 when both answers mean the same, else 0; 0 when either is missing."""
    if answer is None or reference is None:
        return 0.0
    return float(canonical_answer(answer, problem_type) == canonical_answer(reference, problem_type))


def reasoning_similarities(config: AlignmentConfig, group: SampledGroup, references: Sequence[int | None],
                           skip: Sequence[bool], compare: Compare) -> tuple[float, ...]:
    """Sim_r in [0, 1] of every rollout with its reference; `compare` is asked once, for all.

    Anchors hold 1 and are not compared. Shuffled answers, those without a reference or to be skipped, and those where either
    side has no think block, hold 0 and are not compared.
    """
    thoughts = [extract_think(rollout.text) for rollout in group.rollouts]
    values = [float(rollout.branch is config.anchor) for rollout in group.rollouts]
    asked = [i for i, rollout in enumerate(group.rollouts)
             if rollout.branch not in (config.anchor, Branch.SHUFFLED) and references[i] is not None and not skip[i]
             and thoughts[i] is not None and thoughts[references[i]] is not None]
    pairs = [pair for i in asked for pair in _parts(config, thoughts[i], thoughts[references[i]])]
    weights = STEP_WEIGHTS if config.level == "step" else (1.0,)
    found = iter(compare(pairs) if pairs else ())
    for i in asked:
        values[i] = sum(weight * next(found) for weight in weights)
    return tuple(values)


def _parts(config: AlignmentConfig, own: str, reference: str) -> list[tuple[str, str]]:
    return list(zip(segments(own), segments(reference), strict=True)) if config.level == "step" else [(own, reference)]
