"""Charts of an attack's page: accuracy over the budget, gradient indicators, and what it cost to fool an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.platform.report.attack_subjects import (
    CLEAN,
    WORST,
    Subject,
    Threat,
    attack_names,
    attack_text,
    epsilon_text,
    is_transfer,
    norm_text,
    power_text,
    threat_text,
    threats,
)
from squall.platform.report.charts import (
    LEFT,
    RIGHT,
    line_path,
    number_text,
    y_place,
)
from squall.platform.report.evaluation_charts import COLOURS, Panel
from squall.platform.report_card import Estimate

DASHES = ("", " dashed", " dotted")
PERCENT = (0.0, 25.0, 50.0, 75.0, 100.0)
FAR = 4.0
"""A budget this many times the one below it, such as that of an unbounded attack, would leave no room for the others."""
MAX_STEPS = 80
"""Of a line over queries."""


def series_colour(number: int) -> str:
    """Classes of the n-th of many lines: six colours, then the same dashed, then dotted."""
    return COLOURS[number % len(COLOURS)] + DASHES[number // len(COLOURS) % len(DASHES)]


def colours(names: Iterable[str]) -> dict[str, str]:
    return {name: series_colour(number) for number, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class Scale:
    """A horizontal axis."""

    low: float
    high: float
    logarithmic: bool = False

    def x(self, value: float) -> float:
        low, high, value = (math.log10(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return round(LEFT + (RIGHT - LEFT) * (value - low) / ((high - low) or 1.0), 2)


def robustness_panels(found: Sequence[Subject]) -> list[Panel]:
    """Accuracy in percent over epsilon from the clean image on: a panel for each subject and norm with two budgets or more."""
    colour = colours(attack_names(found))
    panels = []
    for norm in dict.fromkeys(norm for norm, _ in threats(found)):
        own = near([epsilon for name, epsilon in threats(found) if name == norm])
        if len(own) > 1:
            panels += [_robustness(subject, norm, own, colour) for subject in found
                       if any(name == norm for _, (name, _) in subject.figures)]
    several = len({panel.title for panel in panels}) < len(panels)
    return panels if several or len(found) > 1 else [_retitled(panel, panel.title.rpartition(", ")[2]) for panel in panels]


def near(epsilons: Sequence[float]) -> list[float]:
    """Ascending budgets up to the first that is far larger than the one below it."""
    kept: list[float] = []
    for epsilon in sorted(epsilons):
        if kept and epsilon > FAR * kept[-1]:
            break
        kept.append(epsilon)
    return kept


def _retitled(panel: Panel, title: str) -> Panel:
    return Panel(title, panel.bands, panel.lines, panel.dots, panel.y_ticks, panel.x_ticks)


def _robustness(subject: Subject, norm: str, epsilons: Sequence[float], colour: Mapping[str, str]) -> Panel:
    scale = Scale(0.0, epsilons[-1])
    clean = [(0.0, subject.clean)] if subject.clean.value is not None else []
    bands, lines, dots = [], [], []
    for attack in [*subject.attacks(), WORST]:
        points = [(epsilon, one) for epsilon in epsilons if (one := subject.under(attack, (norm, epsilon))) is not None
                  and one.value is not None]
        if not points:
            continue
        path = _percent_path(scale, [(epsilon, one.value) for epsilon, one in [*clean, *points]])
        lines.append((WORST if attack == WORST else colour[attack], path, f"{subject.name}, {attack_text(attack)}"))
        if attack == WORST:
            bands.append((WORST, _band(scale, [*clean, *points])))
            dots += [(WORST, scale.x(epsilon), _percent_y(one.value), 3.2, _told(subject, norm, epsilon, one))
                     for epsilon, one in points]
    if clean:
        dots.insert(0, (CLEAN, scale.x(0.0), _percent_y(subject.clean.value), 3.2,
                        f"{subject.name}, clean: {100 * (subject.clean.value or 0.0):.1f} %"))
    ticks = ((scale.x(0.0), CLEAN), *((scale.x(epsilon), epsilon_text((norm, epsilon)))
                                      for epsilon in _spaced(epsilons, scale)))
    return Panel(f"{subject.name}, {norm_text(norm)}", tuple(bands), tuple(lines), tuple(dots), _percent_ticks(), ticks)


def _spaced(epsilons: Sequence[float], scale: Scale, room: float = 46.0) -> list[float]:
    """Budgets whose labels do not run into each other, the largest always."""
    kept = [epsilons[-1]]
    for epsilon in reversed(epsilons[:-1]):
        if scale.x(kept[-1]) - scale.x(epsilon) >= room and scale.x(epsilon) - scale.x(0.0) >= room:
            kept.append(epsilon)
    return kept[::-1]


def _told(subject: Subject, norm: str, epsilon: float, one: Estimate) -> str:
    bounds = "" if one.low is None or one.high is None else f", 95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}"
    return f"{subject.name}, worst case within {threat_text((norm, epsilon))}: {100 * (one.value or 0.0):.1f} %{bounds}"


def _band(scale: Scale, points: Sequence[tuple[float, Estimate]]) -> str:
    known = [(x, one.low, one.high) for x, one in points if one.low is not None and one.high is not None]
    if len(known) < 2:
        return ""
    upper = _percent_path(scale, [(x, high) for x, _, high in known])
    return f"{upper}L{_percent_path(scale, [(x, low) for x, low, _ in reversed(known)])[1:]}Z"


def _percent_path(scale: Scale, points: Sequence[tuple[float, float | None]]) -> str:
    return line_path([scale.x(x) for x, _ in points], [None if y is None else 100 * y for _, y in points], 0.0, 100.0)


def _percent_y(share: float | None) -> float:
    return round(y_place(100 * (share or 0.0), 0.0, 100.0), 1)


def _percent_ticks() -> tuple[tuple[float, str], ...]:
    return tuple((round(y_place(mark, 0.0, 100.0), 2), f"{mark:.0f}") for mark in PERCENT)


def query_panels(found: Sequence[Subject], table: pa.Table | None, threat: Threat | None) -> list[Panel]:
    """Share of the attacked images, in percent, that an attack had fooled after so many forward passes of the image.

    A panel for each subject; transfers, which ask a model once, are left out.
    """
    if table is None or threat is None:
        return []
    near_threat = pc.less(pc.abs(pc.subtract(table["epsilon"], threat[1])), 1e-9)
    rows = table.filter(pc.and_kleene(pc.equal(table["norm"], threat[0]), near_threat)).select(
        ["model", "attack", "fooled", "queries"])
    colour = colours(attack_names(found))
    curves = {subject.name: {attack: curve for attack in subject.attacks() if not is_transfer(attack)
                             and (curve := _success(rows, subject, attack)) is not None} for subject in found}
    last = max((x for own in curves.values() for xs, _ in own.values() for x in xs), default=0.0)
    if last <= 1:
        return []
    scale = Scale(1.0, last, True)
    return [_queries(name, own, scale, colour) for name, own in curves.items() if own]


def _success(rows: pa.Table, subject: Subject, attack: str) -> tuple[np.ndarray, np.ndarray] | None:
    names = pa.array([model.name for model in subject.models])
    own = rows.filter(pc.and_(pc.is_in(rows["model"], names), pc.equal(rows["attack"], attack)))
    if own.num_rows == 0:
        return None
    queries = np.sort(own.filter(own["fooled"])["queries"].to_numpy().astype(float))
    shares = np.arange(1, len(queries) + 1) / own.num_rows
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(len(queries), MAX_STEPS)).astype(int)) if len(queries) else []
    longest = max(1.0, float(pc.max(own["queries"]).as_py() or 0))
    xs = np.concatenate([[1.0], np.maximum(queries[chosen], 1.0), [longest]]) if len(queries) else np.array([1.0, longest])
    ys = np.concatenate([[0.0], shares[chosen], [shares[-1]]]) if len(queries) else np.array([0.0, 0.0])
    return xs, ys


def _queries(name: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: Scale, colour: Mapping[str, str]) -> Panel:
    lines = []
    for attack, (xs, ys) in curves.items():
        corners = [(float(x), float(y)) for i, x in enumerate(xs) for y in ((ys[i - 1], ys[i]) if i else (ys[i],))]
        text = f"{name}, {attack}: {100 * ys[-1]:.1f} % fooled within {number_text(float(xs[-1]), [0.0, 1.0])} passes"
        lines.append((colour[attack], _percent_path(scale, corners), text))
    marks = [10.0 ** power for power in range(int(math.log10(scale.high)) + 1)]
    return Panel(name, (), tuple(lines), (), _percent_ticks(),
                 tuple((scale.x(mark), power_text(round(math.log10(mark)))) for mark in marks))
