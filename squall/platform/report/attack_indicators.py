"""Gradient indicators of an attack's page: their table, their curves, and predictive entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from squall.platform.report.attack_charts import Scale, colours
from squall.platform.report.attack_subjects import Subject, mean, power_text
from squall.platform.report.charts import Values, line_path, nice_range, y_place, y_tick_texts
from squall.platform.report.evaluation_charts import Panel

INDICATORS = (
    ("agn", "AGN", "mean length of the cross-entropy gradient by the pixels"),
    ("igv", "IGV", "variance of the gradient's entries around an image"),
    ("digv", "dIGV", "spread of the gradient's direction around an image: 0 all the same, 1 all over"),
    ("gsua", "GSUA", "cosine between the gradients of successive PGD steps: 1 is a straight way"),
    ("sign_consistency", "sign consistency", "share of pixels whose gradient keeps its sign from one PGD step to the next"),
    ("spread_steps", "spread of steps", "how far the steps' mean directions lie apart, 1 − their mean cosine"),
    ("zero_gradients", "zero gradients", "share of images whose gradient is exactly zero in float32"),
    ("zero_gradients_float64", "zero in float64", "the same in double precision: zero by itself, not by rounding"),
    ("float32_agreement", "float32 agreement", "cosine between the gradients of single and of double precision"),
)
"""Field, name and meaning of the columns."""
ENTROPY = tuple((images, group) for images in ("clean", "attacked") for group in ("all", "correct", "wrong"))
RADIUS, STEP = "radius", "PGD step"
CURVES = {"igv": ("IGV", RADIUS), "digv": ("dIGV", RADIUS), "gsua": ("GSUA", STEP), "agn": ("AGN", STEP),
          "sign_consistency": ("sign consistency", STEP), "spread": ("spread across images", STEP)}
"""Name and axis of a curve."""
FEW = 8
"""Points of a line up to which each is marked."""

Spread: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class IndicatorRow:
    """A subject's indicators: (mean, lowest, highest) over its models by field; None where none has it."""

    subject: Subject
    values: Mapping[str, Spread | None]


def indicator_rows(found: Sequence[Subject]) -> list[IndicatorRow]:
    """Subjects of which an indicator was measured."""
    rows = []
    for subject in found:
        own = [model.indicators for model in subject.models if model.indicators is not None]
        if own:
            rows.append(IndicatorRow(subject, {name: spread([getattr(one, name) for one in own]) for name, _, _ in INDICATORS}))
    return rows


def entropy_rows(found: Sequence[Subject]) -> list[tuple[Subject, list[Spread | None]]]:
    """Bits of each group of `ENTROPY`, for the subjects of which they were measured."""
    rows = []
    for subject in found:
        known = [{(row.images, row.group): row.bits for row in model.indicators.entropy}
                 for model in subject.models if model.indicators is not None]
        cells = [spread([own.get(group) for own in known]) for group in ENTROPY]
        if any(cells):
            rows.append((subject, cells))
    return rows


def spread(values: Sequence[float | None]) -> Spread | None:
    """(mean, lowest, highest) of the values that are defined."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return (sum(known) / len(known), min(known), max(known)) if known else None


def indicator_panels(found: Sequence[Subject]) -> list[tuple[str, Panel]]:
    """(what lies along x, panel) of each indicator that has curves: a line for each subject, pale ones for its seeds."""
    colour = colours(subject.name for subject in found)
    panels = []
    for name, (label, axis) in CURVES.items():
        curves = {subject.name: [dict(zip(curve.x, curve.y, strict=True)) for model in subject.models if model.indicators
                                 for curve in model.indicators.curves if curve.name == name] for subject in found}
        panel = _indicator(label, axis, curves, colour)
        if panel is not None:
            panels.append((axis, panel))
    return panels


def _indicator(title: str, axis: str, curves: Mapping[str, Sequence[Mapping[float, float | None]]],
               colour: Mapping[str, str]) -> Panel | None:
    xs = sorted({x for own in curves.values() for curve in own for x in curve})
    seen = [y for own in curves.values() for curve in own for y in curve.values() if y is not None and math.isfinite(y)]
    if len(xs) < 2 or not seen:
        return None
    scale, vertical = Scale(xs[0], xs[-1], axis == RADIUS and xs[0] > 0), Vertical.over(seen)
    lines, dots = [], []
    for subject, own in curves.items():
        means = [mean([curve.get(x) for curve in own]) for x in xs]
        seeds = [[curve.get(x) for x in xs] for curve in own] if len(own) > 1 else []
        lines += [(f"{colour[subject]} seed", vertical.path(xs, values, scale), subject) for values in seeds]
        lines.append((colour[subject], vertical.path(xs, means, scale), subject))
        dots += [(colour[subject].split()[0], scale.x(x), vertical.y(y), 2.6, f"{subject}: {y:.3g} at {x:g}")
                 for x, y in zip(xs, means, strict=True) if y is not None and len(xs) <= FEW]
    marks = xs if len(xs) <= 5 else [xs[0], xs[len(xs) // 2], xs[-1]]
    return Panel(f"{title}{vertical.unit}", (), tuple(lines), tuple(dots), vertical.ticks,
                 tuple((scale.x(x), f"{x:g}") for x in marks))


@dataclass(frozen=True, slots=True)
class Vertical:
    """A vertical axis: by powers of ten where values span two of them or more; a power of ten is taken out of small ones."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    factor: float
    unit: str
    """What the ticks are counted in, for the title."""

    @classmethod
    def over(cls, values: Sequence[float]) -> Vertical:
        if min(values) > 0 and max(values) >= 100 * min(values):
            low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            marks = range(low, high + 1, -(-(high - low) // 5))
            return cls(low, high, tuple((round(y_place(mark, low, high), 2), power_text(mark)) for mark in marks), 0.0, "")
        most = max(map(abs, values))
        exponent = math.floor(math.log10(most)) if 0 < most < 0.01 else 0
        low, high, ticks = nice_range([value / 10.0 ** exponent for value in values])
        return cls(low, high, y_tick_texts(ticks), 10.0 ** exponent, f" × {power_text(exponent)}" if exponent else "")

    def y(self, value: float) -> float:
        return round(y_place(self._height(value), self.low, self.high), 1)

    def path(self, xs: Sequence[float], values: Values, scale: Scale) -> str:
        heights = [None if value is None else self._height(value) for value in values]
        return line_path([scale.x(x) for x in xs], heights, self.low, self.high)

    def _height(self, value: float) -> float:
        return value / self.factor if self.factor else max(self.low, math.log10(value)) if value > 0 else self.low
