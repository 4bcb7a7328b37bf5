"""Report cards of the size that real ones have: their figures follow from simulated scores, their intervals are normal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from squall.platform.report_card import (
    Calibration,
    CalibrationBin,
    ComparisonCard,
    ConditionResult,
    Contrast,
    CurvePoint,
    Estimate,
    Group,
    Loss,
    Reasoning,
    ReportCard,
    RubricAgreement,
    RubricScore,
    Summary,
)

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "photometric": ("dusk", "night", "overexposure", "shadow"),
    "weather": ("light_rain", "heavy_rain", "storm", "snow", "hail", "fog"),
    "occlusion": ("blocks_static", "blocks_dynamic", "lens_drops"),
    "camera": ("translation", "zoom", "rotation", "shake", "motion_blur"),
    "temporal": ("random_drop", "segment_drop", "freeze"),
    "sensor": ("noise", "compression", "night+light_rain"),
}
SEVERITIES = (0.3, 0.5, 0.7)
QUESTIONS = 200
RUBRICS = ("fragility", "consistency", "belief", "recovery", "attention")


def estimate(values: np.ndarray) -> Estimate:
    """Of a mean, with a normal interval."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(value=float(values.mean()), low=float(values.mean() - half), high=float(values.mean() + half),
                    n=len(values))


def simulate(seed: int, skill: float) -> dict[str, np.ndarray]:
    """Scores (QUESTIONS,) of 0 or 1 by condition; harder kinds and higher severities are answered worse."""
    rng = np.random.default_rng(7)
    ease = rng.normal(skill, 1.4, QUESTIONS)
    hardness = {kind: rng.uniform(0.2, 3.4) for kinds in FAMILIES.values() for kind in kinds}
    own = np.random.default_rng(seed)
    scores = {"clean": ease + own.normal(0, 0.4, QUESTIONS) > 0}
    for kind, weight in hardness.items():
        for severity in SEVERITIES:
            scores[f"{kind} {severity:g}"] = ease - weight * severity + own.normal(0, 0.6, QUESTIONS) > 0
    return {name: passed.astype(float) for name, passed in scores.items()}


def make_card(name: str = "baseline", seed: int = 1, skill: float = 1.0, **changes: object) -> ReportCard:
    """A full card; `changes` replace fields."""
    scores = simulate(seed, skill)
    clean = scores["clean"]
    kinds = [kind for own in FAMILIES.values() for kind in own]
    of_kind = {kind: [scores[f"{kind} {severity:g}"] for severity in SEVERITIES] for kind in kinds}
    of_family = {family: [score for kind in own for score in of_kind[kind]] for family, own in FAMILIES.items()}
    corrupted = np.mean([score for name, score in scores.items() if name != "clean"], axis=0)
    worst = min(kinds, key=lambda kind: np.mean(of_kind[kind]))
    values = {
        "name": name,
        "model": {"label": f"tiny-policy {name}", "kind": "vllm", "path": f"runs/{name}/checkpoints/step-300",
                  "hash": "9f2c17e0"},
        "data": {"manifest": "test.jsonl", "hash": "5d41402abc4b2a76", "questions": QUESTIONS, "videos": 100,
                 "rejected": {"not_json": 2}},
        "asked": {"kinds": kinds, "severities": list(SEVERITIES), "calibration": 1, "seed": 0,
                  "frames": {"max_frames": 16, "max_pixels": 100352}, "decoding": {"temperature": 0.0, "max_tokens": 1024},
                  "prompt_template": "video_r1"},
        "provenance": {"squall": "0.3.0", "commit": "bd63222", "packages": {"torch": "2.9.1", "vllm": "0.14.0"}},
        "summary": summary(scores, clean, corrupted, of_kind[worst], worst),
        "conditions": conditions(scores, clean),
        "by_kind": [group(kind, clean, of_kind[kind]) for kind in kinds],
        "by_family": [group(family, clean, own) for family, own in of_family.items()],
        "by_severity": [group(f"{severity:g}", clean, [own[i] for own in of_kind.values()])
                        for i, severity in enumerate(SEVERITIES)],
        "by_question_type": [group(kind, clean[i::3], [score[i::3] for name, score in scores.items() if name != "clean"])
                             for i, kind in enumerate(("colour", "count", "camera"))],
        "curves": [CurvePoint(family=family, severity=severity,
                              accuracy=estimate(np.mean([of_kind[kind][i] for kind in own], axis=0)))
                   for family, own in FAMILIES.items() for i, severity in enumerate(SEVERITIES)],
        "calibration_clean": calibration(clean, 0.08), "calibration_corrupted": calibration(corrupted, 0.22),
        "reasoning": reasoning(), "reported": {"clean": 0.51, "pvr_drop": 0.353, "fog": 0.402},
        "lost": [Loss(question=17, sample_id="test-000017", condition="storm 0.7", reason="decode_error",
                      message="test/000017.mp4: no frame could be decoded"),
                 *(Loss(question=i, sample_id=f"test-{i:06}", condition=f"{kind} 0.5", reason="too_long",
                        message="4,212 tokens; 4,096 fit") for i, kind in enumerate(kinds[:9]))],
        "notes": ["Answers were decoded greedily, so that one answer stands for each question."],
    }
    return ReportCard.model_validate(values | changes)


def group(name: str, clean: np.ndarray, corrupted: Sequence[np.ndarray]) -> Group:
    mean = np.mean(corrupted, axis=0)
    return Group(name=name, clean=estimate(clean), corrupted=estimate(mean), change=estimate(mean - clean))


def conditions(scores: Mapping[str, np.ndarray], clean: np.ndarray) -> list[ConditionResult]:
    family_of = {kind: family for family, kinds in FAMILIES.items() for kind in kinds}
    results = []
    for name, score in scores.items():
        kind, _, severity = name.partition(" ")
        lost, won = int(((clean == 1) & (score == 0)).sum()), int(((clean == 0) & (score == 1)).sum())
        p = 2 * NormalDist().cdf(-abs(lost - won) / max(1.0, (lost + won) ** 0.5)) if severity else None
        results.append(ConditionResult(
            condition=name, kind=kind if severity else None, family=family_of.get(kind),
            severity=float(severity) if severity else None,
            accuracy=estimate(score), change=estimate(score - clean), flip_rate=estimate(1 - score[clean == 1]),
            consistency=estimate((score == clean).astype(float)), p_value=p, p_holm=None if p is None else min(1.0, 40 * p)))
    return results


def summary(scores: Mapping[str, np.ndarray], clean: np.ndarray, corrupted: np.ndarray, worst: Sequence[np.ndarray],
            kind: str) -> Summary:
    base, mean = estimate(clean), estimate(corrupted)

    def part(value: float, half: float) -> Estimate:
        return Estimate(value=value, low=value - half, high=value + half, n=QUESTIONS)

    return Summary(
        clean=base, mpc=mean, rpc=part(mean.value / base.value, 0.03), worst=estimate(np.mean(worst, axis=0)), worst_kind=kind,
        relative_robustness=part(1 - (base.value - mean.value) / base.value, 0.031),
        absolute_robustness=part(1 - (base.value - mean.value), 0.032), pvr_drop=part(1 - mean.value / base.value, 0.033),
        flip_rate=part(0.237, 0.034), consistency=part(0.806, 0.035))


def calibration(score: np.ndarray, gap: float) -> Calibration:
    empty = [CalibrationBin(low=i / 10, high=(i + 1) / 10, n=0, confidence=None, accuracy=None) for i in range(2)]
    bins = empty + [CalibrationBin(low=i / 10, high=(i + 1) / 10, n=4 * i * i, confidence=i / 10 + 0.06,
                                   accuracy=max(0.0, i / 10 + 0.05 - gap * i / 8)) for i in range(2, 10)]
    return Calibration(ece=Estimate(value=gap / 2, low=gap / 2 - 0.021, high=gap / 2 + 0.021, n=QUESTIONS),
                       brier=Estimate(value=0.181, low=0.162, high=0.203, n=QUESTIONS), bins=bins, n=sum(b.n for b in bins))


def reasoning() -> Reasoning:
    def score(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.14, high=value + 0.14, n=QUESTIONS)

    return Reasoning(
        judge="gpt-4o-2024-11-20", unread=3,
        scores=[RubricScore(name=name, higher_is_better=name != "fragility", clean=score(3.9 - 0.23 * i),
                            corrupted=score(2.87 - 0.19 * i)) for i, name in enumerate(RUBRICS)],
        agreement=[RubricAgreement(name=name, n=24, exact=0.583 - 0.03 * i, within_one=0.917, weighted_kappa=0.71 - 0.1 * i)
                   for i, name in enumerate(RUBRICS)])


def compare(first: ReportCard, second: ReportCard) -> ComparisonCard:
    """Contrasts of all conditions and of the mean."""
    def contrast(name: str, a: Estimate, b: Estimate, p: float | None) -> Contrast:
        change = b.value - a.value
        return Contrast(name=name, first=a.value, second=b.value, p_value=p, p_holm=None if p is None else min(1.0, 20 * p),
                        change=Estimate(value=change, low=change - 0.041, high=change + 0.041, n=QUESTIONS))

    rows = [contrast("mpc", first.summary.mpc, second.summary.mpc, None)]
    for a, b in zip(first.conditions, second.conditions, strict=True):
        difference = abs(b.accuracy.value - a.accuracy.value)
        rows.append(contrast(a.condition, a.accuracy, b.accuracy, 2 * NormalDist().cdf(-difference / 0.021)))
    return ComparisonCard(first=first.model["label"], second=second.model["label"], contrasts=rows, n=QUESTIONS)
