"""Pictures of an evaluation: severity curves with their intervals, bars per kind, reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from squall.platform.report.charts import BOTTOM, LEFT, RIGHT, TOP, line_path, nice_range, y_place, y_tick_texts
from squall.platform.report_card import Calibration, ConditionResult, Estimate, ReportCard

COLOURS = ("p0", "p1", "p2", "p3", "p4", "p5")
"""Of several cards, in their order."""
CLEAN, CORRUPTED, KIND = "p0", "p1", "kind"
SQUARE_BOTTOM = 282
"""Reliability diagrams are as high as they are wide."""
MAX_RADIUS = 9.0

Points = list[tuple[float, Estimate]]


@dataclass(frozen=True, slots=True)
class Panel:
    """SVG fragments of one chart. Colours are CSS classes."""

    title: str
    bands: tuple[tuple[str, str], ...]
    """(colour, closed path) of intervals."""
    lines: tuple[tuple[str, str, str], ...]
    """(classes, path, text for the pointer)."""
    dots: tuple[tuple[str, float, float, float, str], ...]
    """(colour, x, y, radius, text for the pointer)."""
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    tag: tuple[float, float, str] | None = None
    """(x, y, text): the name of one line, written beside it."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A family's kinds, the worst one of the first card first."""

    family: str
    means: tuple[Estimate | None, ...]
    """Of the family, for each card."""
    kinds: tuple[tuple[str, tuple[Estimate | None, ...]], ...]
    """(kind, accuracy for each card)."""


def families(cards: Sequence[ReportCard]) -> list[str]:
    """Families of all cards, in the order of the cards."""
    return list(dict.fromkeys(result.family for card in cards for result in card.conditions if result.family))


def severity_panels(cards: Sequence[ReportCard]) -> list[Panel]:
    """Accuracy in percent over severity, a panel for each family, all on the same axes.

    A curve begins with the clean accuracy, since severity 0 leaves a clip as it is. A benchmark's families whose clips differ
    in severity have none. One card is drawn with a thin line for
    every kind and the name of the one that ends lowest.
    """
    names = [name for name in families(cards)
             if any(result.family == name and result.severity is not None for card in cards for result in card.conditions)]
    curves = {(name, number): family_curve(card, name) for name in names for number, card in enumerate(cards)}
    severities = sorted({result.severity for card in cards for result in card.conditions if result.severity is not None})
    seen = [_percent(bound) for points in curves.values() for _, estimate in points
            for bound in (estimate.value, estimate.low, estimate.high) if bound is not None]
    if len(cards) == 1:
        seen += [_percent(result.accuracy.value) for result in cards[0].conditions if result.accuracy.value is not None]
    if not names or not severities or not seen:
        return []
    low, high, ticks = nice_range(seen)
    axes = _Axes(low, min(high, 100.0), severities[-1] or 1.0)
    ticks = [tick for tick in ticks if tick <= axes.high]
    return [_panel(cards, name, [curves[name, number] for number in range(len(cards))], axes, ticks, severities)
            for name in names]


@dataclass(frozen=True, slots=True)
class _Axes:
    low: float
    high: float
    last: float

    def x(self, severity: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * severity / self.last, 2)

    def y(self, accuracy: float) -> float:
        return round(y_place(_percent(accuracy), self.low, self.high), 1)

    def path(self, points: Sequence[tuple[float, float | None]]) -> str:
        return line_path([self.x(severity) for severity, _ in points],
                         [None if value is None else _percent(value) for _, value in points], self.low, self.high)


def _panel(cards: Sequence[ReportCard], name: str, curves: Sequence[Points], axes: _Axes, ticks: Sequence[float],
           severities: Sequence[float]) -> Panel:
    bands, lines, dots, tag = [], [], [], None
    single = len(cards) == 1
    for number, (card, points) in enumerate(zip(cards, curves, strict=True)):
        colour = CORRUPTED if single else COLOURS[number % len(COLOURS)]
        label = card.model.get("label", card.name)
        if (clean := card.summary.clean.value) is not None:
            path = axes.path([(0.0, clean), (axes.last, clean)])
            lines.append((f"{CLEAN if single else colour} level", path, f"{label}: clean {_percent(clean):.1f} %"))
        if single:
            kinds, tag = _kind_lines(card, name, axes)
            lines += kinds
        bands.append((colour, _band(points, axes)))
        lines.append((f"{colour} mean", axes.path([(severity, estimate.value) for severity, estimate in points]), label))
        dots += [(colour, axes.x(severity), axes.y(estimate.value), 3.0, f"{label}, {_at(severity)}: {_text(estimate)}")
                 for severity, estimate in points if estimate.value is not None]
    x_ticks = ((axes.x(0.0), "clean"), *((axes.x(severity), f"{severity:g}") for severity in severities if severity > 0))
    return Panel(name, tuple(bands), tuple(lines), tuple(dots), y_tick_texts(ticks), x_ticks, tag)


def _kind_lines(card: ReportCard, family: str, axes: _Axes) -> tuple[list, tuple[float, float, str] | None]:
    """A thin line for each kind of a family that has several, and the name of the one that ends lowest."""
    kinds: dict[str, list[ConditionResult]] = {}
    for result in card.conditions:
        if result.family == family and result.severity is not None and result.accuracy.value is not None:
            kinds.setdefault(str(result.kind), []).append(result)
    if len(kinds) < 2:
        return [], None
    lines, ends = [], []
    for kind, results in kinds.items():
        results.sort(key=lambda result: result.severity)
        points = [(0.0, card.summary.clean.value), *((result.severity, result.accuracy.value) for result in results)]
        lines.append((KIND, axes.path(points), plain(kind)))
        ends.append((results[-1].accuracy.value, results[-1].severity, plain(kind)))
    value, severity, kind = min(ends)
    return lines, (axes.x(severity), min(axes.y(value) + 11, BOTTOM - 3), kind)


def family_curve(card: ReportCard, family: str) -> Points:
    """(severity, accuracy) from the clean clip on; without ``curves`` on the card, means that have an interval for one kind."""
    points = sorted(((point.severity, point.accuracy) for point in card.curves if point.family == family),
                    key=lambda point: point[0])
    if not points:
        found: dict[float, list[Estimate]] = {}
        for result in card.conditions:
            if result.family == family and result.severity is not None and result.accuracy.value is not None:
                found.setdefault(result.severity, []).append(result.accuracy)
        points = [(severity, _mean(found[severity])) for severity in sorted(found)]
    return [(0.0, card.summary.clean), *points]


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    if len(estimates) == 1:
        return estimates[0]
    value = sum(estimate.value or 0.0 for estimate in estimates) / len(estimates)
    return Estimate(value=value, low=None, high=None, n=max(estimate.n for estimate in estimates))


def _band(points: Points, axes: _Axes) -> str:
    known = [(severity, estimate) for severity, estimate in points if estimate.low is not None and estimate.high is not None]
    if len(known) < 2:
        return ""
    upper = axes.path([(severity, estimate.high) for severity, estimate in known])
    lower = axes.path([(severity, estimate.low) for severity, estimate in reversed(known)])
    return f"{upper}L{lower[1:]}Z"


def kind_bars(cards: Sequence[ReportCard]) -> list[Bars]:
    """Accuracy under every kind over its severities, by family."""
    family_of = {result.kind: result.family for card in cards for result in card.conditions if result.kind}
    groups = [{group.name: group.corrupted for group in card.by_kind} for card in cards]
    means = [{group.name: group.corrupted for group in card.by_family} for card in cards]
    kinds = list(dict.fromkeys(name for group in groups for name in group))
    bars = []
    for family in dict.fromkeys([*families(cards), *(family_of.get(kind) or "other" for kind in kinds)]):
        rows = [(plain(kind), tuple(group.get(kind) for group in groups)) for kind in kinds
                if (family_of.get(kind) or "other") == family]
        rows.sort(key=lambda row: next((one.value for one in row[1] if one is not None and one.value is not None), 2.0))
        if rows:
            bars.append(Bars(family, tuple(mean.get(family) for mean in means), tuple(rows)))
    return bars


def reliability(title: str, parts: Sequence[tuple[str, str, Calibration | None]]) -> Panel | None:
    """Accuracy over confidence, both from 0 to 1, from (label, colour, calibration); dots grow with their answers.

    None where no answer has a confidence.
    """
    lines, dots = [], []
    for label, colour, calibration in parts:
        bins = [one for one in calibration.bins if one.n and one.confidence is not None and one.accuracy is not None] \
            if calibration else []
        points = [(_square_x(one.confidence), _square_y(one.accuracy)) for one in bins]
        lines.append((f"{colour} mean", "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else "", label))
        most = max((one.n for one in bins), default=1)
        dots += [(colour, *point, round(max(2.5, MAX_RADIUS * (one.n / most) ** 0.5), 1), f"{label}: {one.n} answers, sure "
                  f"to {_percent(one.confidence):.1f} %, right in {_percent(one.accuracy):.1f} %")
                 for one, point in zip(bins, points, strict=True)]
    if not dots:
        return None
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Panel(title, (), tuple(lines), tuple(sorted(dots, key=lambda dot: -dot[3])),
                 tuple((_square_y(mark), f"{_percent(mark):.0f}") for mark in marks),
                 tuple((_square_x(mark), f"{_percent(mark):.0f}") for mark in marks))


def _square_x(share: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * share, 1)


def _square_y(share: float) -> float:
    return round(SQUARE_BOTTOM - (SQUARE_BOTTOM - TOP) * share, 1)


def plain(name: str) -> str:
    """A name as text, ``heavy rain`` for ``heavy_rain``."""
    return name.replace("_", " ")


def _percent(share: float) -> float:
    return 100.0 * share


def _at(severity: float) -> str:
    return "clean" if severity == 0 else f"severity {severity:g}"


def _text(estimate: Estimate) -> str:
    bounds = "" if estimate.low is None or estimate.high is None else \
        f", 95 % interval {_percent(estimate.low):.1f} to {_percent(estimate.high):.1f}"
    return f"{_percent(estimate.value or 0.0):.1f} %{bounds}"
