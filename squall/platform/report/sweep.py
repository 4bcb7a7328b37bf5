"""The page of a sweep: which configuration won, how values and results hang together, every trial's curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squall.platform.report.charts import nice_range, number_text
from squall.platform.report.page import template_environment
from squall.platform.runs import write_text

WIDTH, HEIGHT, SIDE, TOP, BOTTOM = 960, 300, 70, 34, 282
CURVE_LEFT, CURVE_RIGHT, CURVE_BOTTOM = 48, 950, 262


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was tried."""

    name: str
    values: Mapping[str, Any]
    """By searched key."""
    value: float | None
    """Of the sweep's metric, the last one."""
    state: str
    """``finished``, ``pruned``, ``failed`` or ``running``."""
    curve: Sequence[tuple[float, float]] = ()
    """(step, metric)."""
    error: str | None = None
    report: str | None = None
    """Address of the run's own report, from the page's folder."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One upright axis: a searched key, or the metric."""

    label: str
    x: float
    ticks: Sequence[tuple[float, str]]
    """(y, text)."""
    places: Mapping[str, float]
    """y of each trial that has a value."""


def write_sweep_page(path: Path, *, title: str, metric: str, mode: str, trials: Sequence[Trial], logarithmic: Sequence[str],
                     facts: Sequence[tuple[str, str]], command: str) -> Path:
    """Write the page; `trials` stand best first, `logarithmic` names the keys whose axis is."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    axes = parallel_axes(trials, keys, metric, set(logarithmic))
    lines = [(trial, "M" + "L".join(f"{axis.x:g} {axis.places[trial.name]:.1f}" for axis in axes))
             for trial in reversed(trials) if all(trial.name in axis.places for axis in axes)]
    best = next((trial for trial in trials if trial.state == "finished" and trial.value is not None), None)
    page = template_environment().get_template("sweep.html.jinja").render(
        title=title, metric=metric, mode=mode, trials=trials, best=best, keys=keys, axes=axes, lines=lines,
        curves=curves(trials), strength=strengths(trials), facts=facts, command=command,
        short=short, width=WIDTH, height=HEIGHT)
    write_text(path, page)
    return path


def strengths(trials: Sequence[Trial]) -> dict[str, float]:
    """How strongly each trial's lines are drawn, from 0.9 for the first, the best, to 0.25 for the last."""
    return {trial.name: round(0.9 - 0.65 * place / max(1, len(trials) - 1), 2) for place, trial in enumerate(trials)}


def parallel_axes(trials: Sequence[Trial], keys: Sequence[str], metric: str, logarithmic: set[str]) -> list[Axis]:
    """An axis for each key and one for the metric, evenly over the width."""
    columns = [(key, {t.name: t.values[key] for t in trials if key in t.values}) for key in keys]
    columns.append((metric, {trial.name: trial.value for trial in trials if trial.value is not None}))
    gap = (WIDTH - 2 * SIDE) / max(1, len(columns) - 1)
    return [_axis(label, SIDE + gap * number, values, label in logarithmic) for number, (label, values) in enumerate(columns)]


def _axis(label: str, x: float, values: Mapping[str, Any], logarithmic: bool) -> Axis:
    if not values or any(isinstance(value, (str, bool)) or value is None or not isinstance(value, (int, float))
                         for value in values.values()) or len(set(map(str, values.values()))) <= 1:
        names = sorted({short(value) for value in values.values()})
        at = {name: _y((number + 0.5) / len(names)) for number, name in enumerate(names)}
        places = {trial: at[short(value)] for trial, value in values.items()}
        return Axis(label, x, [(y, name) for name, y in at.items()], places)
    scale = math.log10 if logarithmic and min(values.values()) > 0 else float
    low, high = min(map(scale, values.values())), max(map(scale, values.values()))
    places = {trial: _y((scale(value) - low) / (high - low)) for trial, value in values.items()}
    marks = sorted(set(values.values())) if len(set(values.values())) <= 4 else [
        (10 ** mark if scale is math.log10 else mark) for mark in (low, (low + high) / 2, high)]
    return Axis(label, x, [(_y((scale(mark) - low) / (high - low)), short(mark)) for mark in marks], places)


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


@dataclass(frozen=True, slots=True)
class Curves:
    """Every trial's metric over the step, on one pair of axes."""

    paths: Sequence[tuple[Trial, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]


def curves(trials: Sequence[Trial]) -> Curves | None:
    """The curves, the best one last so that it lies on top; None without two points."""
    drawn = [trial for trial in trials if trial.curve]
    points = [point for trial in drawn for point in trial.curve]
    if len(points) < 2:
        return None
    low, high, ticks = nice_range([value for _, value in points])
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    span = (last - first) or 1

    def place(step: float, value: float) -> str:
        x = CURVE_LEFT + (CURVE_RIGHT - CURVE_LEFT) * (step - first) / span
        return f"{x:.1f} {CURVE_BOTTOM - (CURVE_BOTTOM - 12) * (value - low) / (high - low):.1f}"

    paths = [(trial, "M" + "L".join(place(*point) for point in trial.curve)) for trial in reversed(drawn)]
    y_ticks = [(CURVE_BOTTOM - (CURVE_BOTTOM - 12) * (tick - low) / (high - low), number_text(tick, ticks)) for tick in ticks]
    marks = sorted({first, last, round((first + last) / 2)})
    x_ticks = [(CURVE_LEFT + (CURVE_RIGHT - CURVE_LEFT) * (mark - first) / span, f"{mark:g}") for mark in marks]
    return Curves(paths, y_ticks, x_ticks)


def short(value: Any) -> str:
    """A value as the page writes it: three digits of a number."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
