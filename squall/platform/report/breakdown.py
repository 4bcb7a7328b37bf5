"""How accuracy moved for each corruption kind and severity: one small curve each, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.platform.records import Branch

WIDTH, HEIGHT = 200, 64
MAX_POINTS = 100
MIN_STEPS = 4
SEVERITY_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BRANCHES = (Branch.CLEAN, Branch.CORRUPTED)


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of one kind or severity over training; accuracies in percent."""

    label: str
    answers: int
    """Corrupted answers behind the curve."""
    first: float
    """Corrupted answers of the first fifth of the steps; NaN without any."""
    last: float
    """Corrupted answers of the last fifth; NaN without any."""
    paths: tuple[tuple[str, str], ...]
    """(branch, path data in a box of WIDTH x HEIGHT)."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Curves on one scale."""

    heading: str
    curves: tuple[Curve, ...]
    low: int
    high: int
    """Ends of the scale in percent."""
    steps: tuple[int, int]
    """First and last step, counted from 1."""
    reach: int
    """Each point of a curve is the mean over so many steps on either side."""


def breakdowns(answers: pa.Table | None) -> list[Breakdown]:
    """Curves by kind, hardest at the end of training first, and by severity where it varies.

    Empty without corrupted answers, without an accuracy reward and under `MIN_STEPS` steps. `answers` is
    `squall.platform.answers.Answers.table`.
    """
    if answers is None:
        return []
    answers = answers.filter(pc.and_(answers["kind"].is_valid(), answers["accuracy"].is_valid()))
    steps = np.unique(answers["step"].to_numpy())
    if len(steps) < MIN_STEPS or Branch.CORRUPTED.value not in answers["branch"].unique().to_pylist():
        return []
    by_kind = sorted(_curves(answers, answers["kind"], steps), key=lambda c: (np.isnan(c.last), c.last, c.label))
    by_severity = sorted(_curves(answers, _severity_bins(answers["severity"]), steps), key=lambda curve: curve.label)
    tables = [_breakdown("By corruption kind, hardest first", by_kind, steps)]
    return tables + ([_breakdown("By severity", by_severity, steps)] if len(by_severity) > 1 else [])


@dataclass(frozen=True, slots=True)
class _Series:
    """Sums and counts of one label's accuracy at each step."""

    sums: np.ndarray
    counts: np.ndarray

    def mean(self, start: int, stop: int) -> float:
        """Percent over steps start to stop; NaN without answers."""
        count = self.counts[start:stop].sum()
        return 100 * self.sums[start:stop].sum() / count if count else float("nan")


@dataclass(frozen=True, slots=True)
class _Raw:
    """A curve before the common scale is known."""

    label: str
    answers: int
    first: float
    last: float
    series: dict[Branch, _Series]


def _curves(answers: pa.Table, labels: pa.ChunkedArray, steps: np.ndarray) -> list[_Raw]:
    table = answers.append_column("label", labels)
    sums = table.group_by(["label", "branch", "step"]).aggregate([("accuracy", "sum"), ("accuracy", "count")])
    curves = []
    for label in pc.unique(labels).to_pylist():
        own = sums.filter(pc.equal(sums["label"], label))
        series = {branch: _series(own.filter(pc.equal(own["branch"], branch.value)), steps) for branch in BRANCHES}
        fifth = max(1, len(steps) // 5)
        corrupted = series[Branch.CORRUPTED]
        if corrupted.counts.any():
            curves.append(_Raw(label.replace("_", " "), int(corrupted.counts.sum()), corrupted.mean(0, fifth),
                               corrupted.mean(len(steps) - fifth, len(steps)), series))
    return curves


def _series(table: pa.Table, steps: np.ndarray) -> _Series:
    sums, counts = np.zeros(len(steps)), np.zeros(len(steps))
    places = np.searchsorted(steps, table["step"].to_numpy())
    sums[places], counts[places] = table["accuracy_sum"].to_numpy(), table["accuracy_count"].to_numpy()
    return _Series(sums, counts)


def _breakdown(heading: str, raw: Sequence[_Raw], steps: np.ndarray) -> Breakdown:
    reach = max(1, len(steps) // 10)
    stride = -(-len(steps) // MAX_POINTS)
    places = sorted({*range(0, len(steps), stride), len(steps) - 1})
    values = {(curve.label, branch): [series.mean(max(0, at - reach), at + reach + 1) for at in places]
              for curve in raw for branch, series in curve.series.items()}
    seen = [value for column in values.values() for value in column if np.isfinite(value)]
    low, high = int(min(seen) // 10) * 10, min(100, -int(-max(seen) // 10) * 10)
    low = min(low, high - 20)
    xs = [WIDTH * (steps[at] - steps[0]) / (steps[-1] - steps[0]) for at in places]
    curves = [Curve(c.label, c.answers, c.first, c.last, tuple(
        (branch.value, _path(xs, values[c.label, branch], low, high)) for branch in c.series)) for c in raw]
    return Breakdown(heading, tuple(curves), low, high, (int(steps[0]) + 1, int(steps[-1]) + 1), reach)


def _path(xs: Sequence[float], values: Sequence[float], low: int, high: int) -> str:
    parts, pen = [], "M"
    for x, value in zip(xs, values, strict=True):
        if not np.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {HEIGHT * (1 - (value - low) / (high - low)):.1f}")
        pen = "L"
    return "".join(parts)


def _severity_bins(severity: pa.ChunkedArray) -> pa.ChunkedArray:
    bins = np.clip(np.digitize(severity.to_numpy(), SEVERITY_EDGES) - 1, 0, len(SEVERITY_EDGES) - 2)
    names = np.array([f"{low:g} to {high:g}" for low, high in zip(SEVERITY_EDGES, SEVERITY_EDGES[1:], strict=False)], object)
    return pa.chunked_array([pa.array(names[bins], pa.string())])
