"""Charts that are as wide as their room: lines in a field that stretches, and texts beside it that do not.

Colours are CSS classes. Lines are drawn in units of the field, `FIELD` wide and high; texts and dots are placed in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FIELD = 1000.0
MARGIN = 30.0
"""Of the field's width, to its right: where thin lines lead to the names."""
TAG_GAP = 5.2
"""Percent of the height that a name takes."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, where they are drawn."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    """(value, text)."""
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value stands, from 0 at `low` to 1 at `high`; beyond the ends at the nearer one."""
        low, high, value = (math.log10(max(one, 1e-12)) if self.logarithmic else one for one in (self.low, self.high, value))
        return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One line, its interval, and its name."""

    colour: str
    name: str
    path: str
    text: str
    """For the pointer."""
    band: str = ""
    """Closed path; empty without an interval."""
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A line's name, beside its end."""

    colour: str
    name: str
    text: str
    """What is told after the name."""
    top: float
    leader: str
    """Path from the line's end to the name."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A marked point."""

    colour: str
    left: float
    top: float
    text: str
    label: str = ""
    """Written beside it."""


@dataclass(frozen=True, slots=True)
class Plot:
    """What the template draws."""

    title: str
    x_title: str
    lines: tuple[Line, ...]
    tags: tuple[Tag, ...]
    x_ticks: tuple[tuple[float, str], ...]
    """(percent from the left, text)."""
    y_ticks: tuple[tuple[float, str], ...]
    """(percent from the top, text)."""
    dots: tuple[Dot, ...] = ()
    rules: tuple[tuple[float, str], ...] = ()
    """(percent from the left, text) of upright lines."""


def plot(title: str, x_title: str, x: Axis, y: Axis, lines: Sequence[Line], ends: Sequence[tuple[str, str, str, float]],
         dots: Sequence[Dot] = (), rules: Sequence[tuple[float, str]] = ()) -> Plot:
    """A chart; `ends` are (colour, name, text, value at the right end) of what is named there, `rules` (x, text)."""
    return Plot(title, x_title, tuple(lines), _tags(y, ends), x_ticks=_texts(x, x.ticks),
                y_ticks=tuple((top(y, value), text) for value, text in y.ticks), dots=tuple(dots), rules=_texts(x, rules))


def _texts(x: Axis, marks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    return tuple((left(x, value), text) for value, text in marks)


def left(x: Axis, value: float) -> float:
    """Percent from the left."""
    return round(100 * FIELD * x.share(value) / (FIELD + MARGIN), 2)


def top(y: Axis, value: float) -> float:
    """Percent from the top."""
    return round(100 * (1 - y.share(value)), 2)


def path(x: Axis, y: Axis, points: Points) -> str:
    """Straight from point to point; a gap where a value is NaN."""
    parts, pen = [], "M"
    for at, value in points:
        if math.isnan(value):
            pen = "M"
            continue
        parts.append(f"{pen}{FIELD * x.share(at):.1f} {FIELD * (1 - y.share(value)):.1f}")
        pen = "L"
    return "".join(parts)


def stairs(points: Points) -> Points:
    """Corners of a line that keeps its value until the next point."""
    corners = [corner for (_, before), (at, value) in pairwise(points) for corner in ((at, before), (at, value))]
    return [*points[:1], *corners]


def band(x: Axis, y: Axis, lower: Points, upper: Points) -> str:
    """The closed path between two lines."""
    return f"{path(x, y, upper)}L{path(x, y, list(reversed(lower)))[1:]}Z" if lower and upper else ""


def tens(low: float, high: float, *, between: Sequence[int] = (1, 2, 5)) -> tuple[tuple[float, str], ...]:
    """Ticks of a logarithmic axis with whole numbers: 1, 2, 5, 10, ..."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(one * 10.0**power) for power in powers for one in between]
    return tuple((mark, short(mark)) for mark in marks if low * 0.999 <= mark <= high * 1.001)


def short(value: float) -> str:
    """``0.5``, ``950``, ``20 k`` or ``3 M``."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def apart(tops: Sequence[float], gap: float) -> list[float]:
    """The nearest places in the same order with `gap` between neighbours, from 0 to 100 where there is room."""
    gap = min(gap, 100 / max(len(tops) - 1, 1))
    order = sorted(range(len(tops)), key=lambda number: tops[number])
    groups: list[list[float]] = []  # (sum of wanted places less the gaps above, members): places of a group touch
    for place, number in enumerate(order):
        groups.append([tops[number] - place * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + members]
    most = 100 - gap * (len(tops) - 1)
    starts = [min(max(total / members, 0.0), most) for total, members in groups for _ in range(int(members))]
    placed = {number: round(start + place * gap, 2) for place, (number, start) in enumerate(zip(order, starts, strict=True))}
    return [placed[number] for number in range(len(tops))]


def _tags(y: Axis, ends: Sequence[tuple[str, str, str, float]]) -> tuple[Tag, ...]:
    wanted = [top(y, value) for _, _, _, value in ends]
    scale = FIELD / 100
    return tuple(Tag(colour, name, text, place, f"M{FIELD:g} {scale * want:.1f}L{FIELD + MARGIN:g} {scale * place:.1f}")
                 for (colour, name, text, _), want, place in zip(ends, wanted, apart(wanted, TAG_GAP), strict=True))
