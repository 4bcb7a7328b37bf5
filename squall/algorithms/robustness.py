"""Robustness figures of one model, and differences of two, with intervals that are made from the same draws of videos.

docs/metrics.md has every definition with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from squall.algorithms.bootstrap import Bootstrap, intervals, simultaneous_interval
from squall.algorithms.score_matrix import ClusterSums, ScoreMatrix, nested_weights
from squall.algorithms.statistics import holm, mcnemar_exact
from squall.platform.report_card import CLEAN, ConditionResult, Contrast, CurvePoint, Estimate, Group, Summary

RESAMPLES = 4000
"""Moves a bound by some 2 % of the interval's width from one seed to another."""
SHARE, CHANGE = (0.0, 1.0), (-1.0, 1.0)
UNKNOWN = Estimate(value=None, low=None, high=None, n=0)


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything on a report card that follows from scores and meanings."""

    summary: Summary
    conditions: tuple[ConditionResult, ...]
    by_kind: tuple[Group, ...]
    by_family: tuple[Group, ...]
    by_severity: tuple[Group, ...]
    by_question_type: tuple[Group, ...]
    curves: tuple[CurvePoint, ...]


def assess(matrix: ScoreMatrix, resamples: int = RESAMPLES, seed: int = 0) -> Assessment:
    """All figures of one model. Those that are not defined, for want of answers, are None."""
    sheet = _Sheet(matrix)
    everything = np.ones(len(matrix.scores), bool)
    kinds, families = ([getattr(one, name) for one in matrix.conditions] for name in ("kind", "family"))
    severities = [None if one.severity is None else f"{one.severity:g}" for one in matrix.conditions]
    for condition in matrix.conditions:
        sheet.add_all(condition.name, everything, [1 if one is condition else None for one in matrix.conditions])
    sheet.add_all("mean", everything, kinds)
    sheet.add_all("families", everything, families)
    groups = {"kind": kinds, "family": families, "severity": severities}
    names = {what: _different(labels) for what, labels in groups.items()}
    names["severity"].sort(key=float)
    for what, labels in groups.items():
        for label in names[what]:
            sheet.add_group(f"{what} {label}", everything, [1 if one == label else None for one in labels])
    points = sorted({(one.family, one.severity) for one in matrix.conditions if one.family and one.severity is not None})
    for point in points:
        sheet.add_point(point, [1 if (one.family, one.severity) == point else None for one in matrix.conditions])
    for name in np.unique(matrix.types):
        flat = [None if kind is None else number for number, kind in enumerate(kinds)]
        sheet.add_group(f"type {name}", matrix.types == name, flat)
    sheet.draw(resamples, seed)
    results = [sheet.condition(number) for number in range(len(matrix.conditions))]
    adjusted = holm([result.p_value for result in results])
    results = [result.model_copy(update={"p_holm": p}) for result, p in zip(results, adjusted, strict=True)]
    by = {what: tuple(sheet.group(what, label) for label in labels) for what, labels in names.items()}
    types = tuple(sheet.group("type", str(name)) for name in np.unique(matrix.types))
    return Assessment(sheet.summary(names["kind"]), tuple(results), by["kind"], by["family"], by["severity"], types,
                      tuple(sheet.point(point) for point in points))


def contrast(first: ScoreMatrix, second: ScoreMatrix, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Contrast, ...]:
    """Second minus first, clean, on average over corruptions and per condition, over the answers that both have.

    Both must hold the same questions, conditions and clusters in the same order.
    Conditions without common answers are left out.
    """
    both = first.answered & second.answered
    sums = ClusterSums(first.clusters)
    columns = [sums(matrix.scores, both) for matrix in (first, second)]
    counts = sums(np.ones_like(first.scores), both)
    present = both.any(0)
    kinds = [condition.kind for condition in first.conditions]
    plans = {condition.name: np.eye(len(kinds))[number] * present[number]
             for number, condition in enumerate(first.conditions)}
    plans = {CLEAN: plans.pop(CLEAN), "mpc": nested_weights(kinds, present), **plans}
    plans = {name: weights for name, weights in plans.items() if weights.any()}
    figures = Bootstrap()
    for weights in plans.values():
        figures.add(columns[1] - columns[0], counts, weights)
    draws = figures.draw(resamples, seed)
    means = [column.sum(0) / np.maximum(counts.sum(0), 1) for column in columns]
    tested = {condition.name: _mcnemar(first.scores[:, number], second.scores[:, number], first.clusters)
              for number, condition in enumerate(first.conditions)}
    p_values = [tested.get(name) for name in plans]
    rows = zip(plans.items(), draws.values, *draws.interval(), p_values, holm(p_values), strict=True)
    return tuple(
        Contrast(name=name, first=round(float(means[0] @ weights), 6), second=round(float(means[1] @ weights), 6),
                 change=Estimate.of(value, low, high, _rests_on(both, weights), CHANGE), p_value=p, p_holm=adjusted)
        for (name, weights), value, low, high, p, adjusted in rows)


@dataclass
class _Sheet:
    """Figures under their names: first added, then drawn together, then read."""

    matrix: ScoreMatrix
    figures: Bootstrap = field(default_factory=Bootstrap)
    rests_on: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = ClusterSums(self.matrix.clusters)

    def add_group(self, name: str, rows: np.ndarray, outer: Sequence[object]) -> None:
        """Accuracy over the `rows`, (Q,), in conditions that have an `outer` label, (C,), and clean; and the change."""
        scores, matrix = self.matrix.scores, self.matrix
        clean = np.broadcast_to(scores[:, :1], scores.shape)
        self._add(f"{name}: accuracy", rows, outer, scores, matrix.answered)
        self._add(f"{name}: before", rows, outer, clean, matrix.paired)
        self._add(f"{name}: after", rows, outer, scores, matrix.paired)
        self._add(f"{name}: change", rows, outer, scores - clean, matrix.paired)

    def add_all(self, name: str, rows: np.ndarray, outer: Sequence[object]) -> None:
        """The same, and flips, consistency and top-5."""
        matrix = self.matrix
        self.add_group(name, rows, outer)
        self._add(f"{name}: flips", rows, outer, matrix.flipped, matrix.right_when_clean)
        self._add(f"{name}: consistency", rows, outer, matrix.consistent, matrix.paired)
        if matrix.top5 is not None:
            self._add(f"{name}: top5", rows, outer, matrix.top5, np.isfinite(matrix.top5))

    def _add(self, key: str, rows: np.ndarray, outer: Sequence[object], values: np.ndarray,
             where: np.ndarray) -> None:
        wanted = np.array([label is not None for label in outer])
        inside = where[:, wanted] & rows[:, None]
        weights = nested_weights([label for label in outer if label is not None], inside.any(0))
        self.figures.add(self.sums(values[:, wanted], inside), self.sums(np.ones(inside.shape), inside), weights)
        self.rests_on[key] = _rests_on(inside, weights)

    def add_point(self, point: tuple[str, float], outer: Sequence[object]) -> None:
        """Accuracy in the conditions of a family and a severity."""
        self._add(f"{point}: accuracy", np.ones(len(self.matrix.scores), bool), outer, self.matrix.scores, self.matrix.answered)

    def draw(self, resamples: int, seed: int) -> None:
        self.place = {key: number for number, key in enumerate(self.rests_on)}
        self.draws = self.figures.draw(resamples, seed)
        self.low, self.high = self.draws.interval()

    def read(self, key: str, bounds: tuple[float, float] = SHARE) -> Estimate:
        i = self.place[key]
        return Estimate.of(self.draws.values[i], self.low[i], self.high[i], self.rests_on[key], bounds)

    def derived(self, formula: Callable[..., np.ndarray], *keys: str) -> Estimate:
        """A figure that is computed from others, in every draw."""
        places = [self.place[key] for key in keys]
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.array([formula(*self.draws.values[places])])
            samples = formula(*self.draws.samples[:, places].T)[:, None]
        low, high = intervals(value, samples, self.draws.clusters[places].min(keepdims=True))
        return Estimate.of(value[0], low[0], high[0], min(self.rests_on[key] for key in keys))

    def condition(self, number: int) -> ConditionResult:
        one, matrix = self.matrix.conditions[number], self.matrix
        p = _mcnemar(matrix.scores[:, 0], matrix.scores[:, number], matrix.clusters) if number else None
        change = self.read(f"{one.name}: change", CHANGE) if number else _zero(matrix)
        return ConditionResult(
            condition=one.name, kind=one.kind, family=one.family, severity=one.severity,
            accuracy=self.read(f"{one.name}: accuracy"), change=change, flip_rate=self.read(f"{one.name}: flips"),
            consistency=self.read(f"{one.name}: consistency"), p_value=p, p_holm=None)

    def group(self, what: str, label: str) -> Group:
        name = f"{what} {label}"
        return Group(name=label, clean=self.read(f"{name}: before"), corrupted=self.read(f"{name}: accuracy"),
                     change=self.read(f"{name}: change", CHANGE))

    def point(self, point: tuple[str, float]) -> CurvePoint:
        return CurvePoint(family=point[0], severity=point[1], accuracy=self.read(f"{point}: accuracy"))

    def summary(self, kinds: Sequence[str]) -> Summary:
        before, after = "mean: before", "mean: after"
        worst_kind, worst = self._worst(kinds)
        ratio = self.derived(lambda clean, corrupted: corrupted / clean, before, after)
        classifier = self.matrix.top5 is not None
        return Summary(
            clean=self.read(f"{CLEAN}: accuracy"), mpc=self.read("mean: accuracy"), rpc=ratio, worst=worst,
            worst_kind=worst_kind, relative_robustness=ratio,
            absolute_robustness=self.derived(lambda clean, corrupted: 1 - (clean - corrupted), before, after),
            pvr_drop=self.derived(lambda clean, corrupted: (clean - corrupted) / clean, "families: before", "families: after"),
            flip_rate=self.read("mean: flips"), consistency=self.read("mean: consistency"),
            top5_clean=self.read(f"{CLEAN}: top5") if classifier else None,
            top5_corrupted=self.read("mean: top5") if classifier else None)

    def _worst(self, kinds: Sequence[str]) -> tuple[str | None, Estimate]:
        """The kind of the lowest accuracy. Its interval holds for all kinds at once, because chance helped to choose it."""
        keys = [key for key in (f"kind {kind}: accuracy" for kind in kinds)
                if np.isfinite(self.draws.values[self.place[key]])]
        if not keys:
            return None, UNKNOWN
        places = [self.place[key] for key in keys]
        i = int(self.draws.values[places].argmin())
        low, high = simultaneous_interval(self.draws.values[places], self.draws.samples[:, places],
                                          float(self.draws.clusters[places].min()), i)
        estimate = Estimate.of(self.draws.values[places[i]], low, high, self.rests_on[keys[i]], SHARE)
        return keys[i].removeprefix("kind ").removesuffix(": accuracy"), estimate


def _different(labels: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(label for label in labels if label is not None))


def _rests_on(inside: np.ndarray, weights: np.ndarray) -> int:
    return int((inside[:, weights > 0]).any(1).sum())


def _mcnemar(before: np.ndarray, after: np.ndarray, clusters: np.ndarray) -> float | None:
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any() or not np.isin(np.concatenate([before[both], after[both]]), (0.0, 1.0)).all():
        return None
    return mcnemar_exact(before[both], after[both], clusters[both])


def _zero(matrix: ScoreMatrix) -> Estimate:
    n = int(matrix.answered[:, 0].sum())
    return Estimate(value=0.0, low=0.0, high=0.0, n=n) if n else UNKNOWN
