"""Held-out evaluation of a policy: the same questions, clean and corrupted, before and after training.

Which questions, kinds, severities and seeds are asked depends on the configuration alone, so two evaluations are paired
question by question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from squall.actors.groups import GroupPlan
from squall.actors.sampling import GroupSampler
from squall.algorithms.accuracy import accuracy
from squall.algorithms.corruption import known_kinds, parse_spec
from squall.algorithms.statistics import paired_bootstrap, relative_drop
from squall.platform.config import Config
from squall.platform.prompts import extract_answer
from squall.platform.records import Branch, SamplingSpec, ScoredGroup, TrainGroup, VideoSample
from squall.platform.seeds import derive_seed
from squall.platform.store import RolloutStore


class EvaluationConfig(Config):
    """Which held-out questions are asked, and through which corruptions."""

    manifest: Path | None = None
    """Held-out manifest; without one nothing is evaluated and no gain is reported."""
    questions: int = Field(2000, ge=1)
    """Questions asked, the first of the manifest; each once clean and once corrupted."""
    severity: float = Field(0.7, ge=0, le=1)
    """Severity of every held-out corruption."""
    kinds: tuple[str, ...] | None = None
    """Corruption kinds, in turn over the questions, `standard` among them; by default those of training."""
    every_steps: int = Field(0, ge=0)
    """Ask them also every so many steps of training, for a curve; 0 asks before and after alone."""
    seed: int = 10_007
    """Seed of the held-out corruptions, apart from every training seed."""
    max_tokens: int = Field(32, ge=1)
    """Longest greedy answer."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if kinds is None else known_kinds(kinds)


@dataclass(frozen=True)
class HeldOutAnswers:
    """Greedy answers to every question that could be asked, in manifest order."""

    groups: tuple[ScoredGroup, ...]
    """As they came from the engines; what `RolloutStore` keeps of an evaluation."""
    samples: tuple[VideoSample, ...]
    kinds: tuple[str, ...]
    texts: Mapping[Branch, tuple[str, ...]]
    scores: Mapping[Branch, np.ndarray]
    """Accuracy per question in [0, 1], by branch."""

    @classmethod
    def of(cls, groups: Sequence[ScoredGroup]) -> HeldOutAnswers:
        """Score the answers of groups with one clean and one corrupted answer each."""
        samples = tuple(group.sampled.sample for group in groups)
        texts = {branch: tuple(group.sampled.branch(branch)[0].text for group in groups)
                 for branch in (Branch.CLEAN, Branch.CORRUPTED)}
        scores = {branch: np.array([accuracy(extract_answer(text), sample.solution, sample.problem_type)
                                    for text, sample in zip(answers, samples, strict=True)])
                  for branch, answers in texts.items()}
        return cls(tuple(groups), samples, tuple(group.sampled.corruption.name for group in groups), texts, scores)


def plan_questions(config: EvaluationConfig, samples: Sequence[VideoSample],
                   training_kinds: Sequence[str]) -> list[GroupPlan]:
    """One plan per held-out question: one greedy answer to the clean and one to the corrupted clip."""
    kinds = config.kinds or tuple(training_kinds)
    greedy = SamplingSpec(temperature=0.0, max_tokens=config.max_tokens, seed=0)
    plans = []
    for index, sample in enumerate(samples[:config.questions]):
        # The shift by one each round lets every question type meet every kind, whatever their numbers.
        kind = kinds[(index + index // len(kinds)) % len(kinds)]
        spec = parse_spec(kind, severity=config.severity, seed=derive_seed(config.seed, sample.id, "held-out"))
        plans.append(GroupPlan(f"heldout-{sample.id}", sample, spec, {Branch.CLEAN: 1, Branch.CORRUPTED: 1}, greedy))
    return plans


def evaluate(sampler: GroupSampler, plans: Sequence[GroupPlan],
             meanwhile: Callable[[], None]) -> tuple[HeldOutAnswers, Counter[str]]:
    """Ask every question, calling `meanwhile` now and then. Returns the answers, and how many questions were lost by reason."""
    groups: list[ScoredGroup] = []
    lost: Counter[str] = Counter()
    for outcome in sampler.run(plans, meanwhile):
        if outcome.scored is None:
            lost[outcome.failure.reason] += 1
        else:
            groups.append(outcome.scored)
    return HeldOutAnswers.of(groups), lost


def save(answers: HeldOutAnswers, folder: Path, step: int) -> None:
    """Keep an evaluation made after `step` steps, for the report: its groups, without advantages."""
    groups = [TrainGroup(group, (None,) * len(group.sampled.rollouts)) for group in answers.groups]
    RolloutStore(folder).write(step, groups)


def load(folder: Path, step: int) -> HeldOutAnswers:
    """The evaluation kept for `step`. Raises DataError when there is none or its file is damaged."""
    return HeldOutAnswers.of([group.scored for group in RolloutStore(folder).read(step)])


def describe(config: EvaluationConfig, training_kinds: str) -> list[str]:
    """What the held-out figures of a run rest on, for its report; `training_kinds` says which the default kinds are."""
    if config.manifest is None:
        return []
    kinds = "named in evaluation.kinds" if config.kinds else training_kinds
    return [f"Held-out questions are the first {config.questions} of {config.manifest}, each asked about the clean clip and "
            f"about one corrupted at severity {config.severity:g}. Corruption kinds are {kinds}, their seeds never trained "
            "on. Other corruptions, models and data are not tested here."]


def accuracies(answers: HeldOutAnswers) -> dict[str, float]:
    """Mean held-out accuracy per branch, named for the tracker."""
    return {f"heldout/{branch.value}": float(score.mean()) for branch, score in answers.scores.items()}


def compare(before: HeldOutAnswers, after: HeldOutAnswers, seed: int) -> dict[str, Any]:
    """Paired results of two evaluations, in the form of results.json.

    Intervals are 95 % bootstrap intervals over videos (docs/metrics.md). Questions that either evaluation lost are left out.
    """
    order = {sample.id: i for i, sample in enumerate(after.samples)}
    rows = [(i, order[sample.id]) for i, sample in enumerate(before.samples) if sample.id in order]
    first, second = (np.array(column) for column in zip(*rows, strict=True))
    videos = np.unique([before.samples[i].media for i in first], return_inverse=True)[1]
    kinds = np.array(before.kinds)[first]
    types = np.array([question_type(before.samples[i]) for i in first])

    def paired(branch: Branch, keep: np.ndarray) -> dict[str, Any]:
        interval = paired_bootstrap(before.scores[branch][first][keep], after.scores[branch][second][keep],
                                    clusters=videos[keep], seed=seed)
        return {"before": interval.before, "after": interval.after, "diff": interval.diff,
                "ci95": [interval.low, interval.high], "n": int(keep.sum())}

    everything = np.ones(len(first), bool)
    clean, corrupted = paired(Branch.CLEAN, everything), paired(Branch.CORRUPTED, everything)
    return {
        "clean": clean, "corrupted": corrupted,
        "by_kind": {kind: paired(Branch.CORRUPTED, kinds == kind) for kind in dict.fromkeys(kinds.tolist())},
        "by_question_type": {name: {"clean": paired(Branch.CLEAN, types == name),
                                    "corrupted": paired(Branch.CORRUPTED, types == name)} for name in np.unique(types)},
        "relative_drop": {when: relative_drop(clean[when], corrupted[when]) for when in ("before", "after")},
        "n": len(first), "seed": seed,
    }


def question_type(sample: VideoSample) -> str:
    """The manifest's `question_type` where it has one, else the problem type."""
    return str(sample.metadata.get("question_type", sample.problem_type.value))
