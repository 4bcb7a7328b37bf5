"""What a training step logs, under the names that tracker, report and gauges use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squall.algorithms.difficulty import Difficulty
from squall.algorithms.memory import Fate
from squall.jobs.rollout_stream import StepBatch
from squall.platform.records import Branch, TrainGroup

ACCURACIES = ("accuracy_clean", "accuracy_corrupted")


def rollout_metrics(step: int, batch: StepBatch) -> dict[str, float]:
    """What was sampled in a step, under the names that tracker and report use."""
    statistics: dict[str, list[float]] = {}
    for group in batch.all_groups:
        for name, value in group.statistics.items():
            statistics.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in statistics.items()}
    trained = [group.statistics.get("contrast_effective", 0.0) for group in batch.groups]
    ages = [step - rollout.weight_version for group in batch.groups for rollout in group.scored.sampled.rollouts]
    renamed = {
        "reward/mean": means.get("reward_mean"), "reward/std": means.get("reward_std"), **rewards_by_name(batch),
        **{f"accuracy/{branch.value}": means.get(f"accuracy_{branch.value}") for branch in Branch},
        "contrast/effective": max(trained, default=0.0), "contrast/gap": means.get("contrast_gap"),
        "staleness/mean": np.mean(ages) if ages else None, "staleness/max": max(ages, default=None),
        "groups/sampled": batch.sampled, "groups/trained": len(batch.groups),
        **gaps_by_kind(batch.all_groups), **difficulty_metrics(batch),
        **{f"dropped/{reason}": count for reason, count in drop_counts(batch).items()},
    }
    return {name: float(value) for name, value in renamed.items() if value is not None}


def rewards_by_name(batch: StepBatch) -> dict[str, float]:
    """Mean of every reward, unweighted, over the answers that carry an advantage; as ``reward/accuracy``."""
    values: dict[str, list[float]] = {}
    for group in batch.groups:
        for row, advantage in zip(group.scored.rewards, group.advantages, strict=True):
            for name, value in row.items() if advantage is not None else ():
                values.setdefault(f"reward/{name}", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def difficulty_metrics(batch: StepBatch) -> dict[str, float]:
    """Shares of easy, informative and difficult questions, mean confidence, the memory's life; empty without assessments."""
    found = batch.assessments
    if not found:
        return {}
    counts = Counter(assessment.difficulty for assessment in found)
    shares = {f"difficulty/{kind}": counts[kind] / len(found) for kind in Difficulty}
    memory = dict.fromkeys(("size", "deferred", *Fate), 0) | dict(batch.memory)
    return {**shares, "difficulty/confidence": float(np.mean([assessment.confidence for assessment in found])),
            **{f"memory/{name}": float(count) for name, count in memory.items()}}


def gaps_by_kind(groups: Sequence[TrainGroup]) -> dict[str, float]:
    """Clean minus corrupted accuracy of each kind of corruption, as ``gap/fog``."""
    gaps: dict[str, list[float]] = {}
    for group in groups:
        spec, clean, corrupted = group.scored.sampled.corruption, *map(group.statistics.get, ACCURACIES)
        if spec is not None and clean is not None and corrupted is not None:
            gaps.setdefault(f"gap/{spec.name}", []).append(clean - corrupted)
    return {name: float(np.mean(values)) for name, values in gaps.items()}


def learner_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """What the learner reports of a step, under the names that tracker and report use."""
    return {
        "loss": result["loss"], "kl": result["kl"], "clip_fraction": result["clipped_tokens"],
        "ratio": result["ratio"], "entropy": result["entropy"],
        "mismatch/abs_logprob": result["mismatch"], "mismatch/kl": result["mismatch_kl"],
        "tis/mean": result["importance"], "tis/max": result["importance_max"],
        "tis/capped": result["importance_capped_tokens"], "learning_rate": result["learning_rate"],
        "grad_norm": result["grad_norm"], "tokens": result["tokens"],
        **{name: value for name, value in result.items() if name.startswith("kl_consistency/")},
    }


def drop_counts(batch: StepBatch) -> Counter[str]:
    """Groups that were sampled and not trained on, by reason."""
    return Counter(reason for _, reason in batch.outcomes if reason != "trained")
