"""Charts of the page of attacks on clips: success against queries, learning, and what training costs a clip."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from squall.platform.report.charts import nice_range, number_text
from squall.platform.report.plots import Axis, Dot, Line, Plot, Points, band, left, path, plot, short, stairs, tens, top
from squall.platform.report.video_attack_tables import count
from squall.platform.video_attack_card import Training, VideoAttackCard, VideoAttackResult, VideoContrast

PERCENT = Axis(0.0, 100.0, tuple((float(mark), f"{mark} %" if mark == 100 else str(mark)) for mark in (0, 25, 50, 75, 100)))
MOST_BANDS = 5
"""With more attacks than these, intervals are drawn for the ones that are compared alone."""
LOG_FROM = 40
"""Queries from which the axis is logarithmic."""
TICK_ROOM = 0.1
"""Share of the axis that the last number takes; what would run into it is left out."""
MOST_CLIPS = 1e7
STEPS = 60
"""Points of a line over the number of clips."""


def success_plot(card: VideoAttackCard, budget: int, colours: Mapping[str, str], banded: Iterable[str]) -> Plot | None:
    """Share of the clips, in percent, that an attack has fooled after so many queries; None without a curve.

    `banded`: attacks whose intervals are drawn where there are many.
    """
    drawn = [result for result in card.results if result.curve]
    if not drawn:
        return None
    x = _queries_axis(budget)
    shown = {result.attack for result in drawn} if len(drawn) <= MOST_BANDS else set(banded)
    lines = [_success(result, x, colours[result.attack], result.attack in shown) for result in drawn]
    ordered = sorted(drawn, key=lambda result: (-result.curve[-1][1], result.queries.mean or 0.0))
    ends = [(colours[result.attack], result.attack, f"{100 * result.curve[-1][1]:.1f} %", 100 * result.curve[-1][1])
            for result in ordered]
    return plot("Success against queries", "queries, the clean clip included", x, PERCENT, _thick_last(lines), ends)


def _queries_axis(budget: int) -> Axis:
    if budget >= LOG_FROM:
        axis, ticks = Axis(1.0, float(budget), (), True), tens(1.0, budget)
    else:
        axis, ticks = Axis(0.0, float(budget), ()), tuple((tick, short(tick)) for tick in nice_range([0.0, float(budget)])[2])
    apart = [tick for tick in ticks if axis.share(tick[0]) <= 1 - TICK_ROOM]
    return replace(axis, ticks=(*apart, (float(budget), short(budget))))


def _success(result: VideoAttackResult, x: Axis, colour: str, banded: bool) -> Line:
    points = [(max(float(queries), x.low), 100 * share, 100 * low, 100 * high) for queries, share, low, high in result.curve]
    points.insert(0, (x.low, 0.0, 0.0, 0.0))
    points.append((x.high, *points[-1][1:]))
    middle, lower, upper = (stairs([(point[0], point[column]) for point in points]) for column in (1, 2, 3))
    text = f"{result.attack}: {points[-1][1]:.1f} % of {result.attacked} clips fooled within {short(x.high)} queries"
    return Line(colour, result.attack, path(x, PERCENT, middle), text, band(x, PERCENT, lower, upper) if banded else "",
                thin=result.kind == "control")


def _thick_last(lines: Sequence[Line]) -> list[Line]:
    """Learned attacks above the others."""
    return sorted(lines, key=lambda line: not line.thin)


def learning_plots(trainings: Sequence[Training], colours: Mapping[str, str]) -> list[Plot]:
    """Queries an attack, and the share that flipped, over the iterations: a thin line for each seed, and their mean."""
    known = [training for training in trainings if training.learning]
    if not known:
        return []
    first = float(min(training.learning[0][0] for training in known))
    last = max(first + 1, *(float(training.learning[-1][0]) for training in known))
    _, _, ticks = nice_range([first, last])
    x = Axis(first, last, tuple((tick, short(tick)) for tick in ticks if first <= tick <= last))
    queries = [row[2] for training in known for row in training.learning if math.isfinite(row[2])]
    low, high, ticks = nice_range([0.0, *queries])
    y = Axis(low, high, tuple((tick, number_text(tick, ticks)) for tick in ticks))
    return [_learning("Queries an attack while learning", known, 2, 1.0, x, y, colours),
            _learning("Attacks that flipped while learning, %", known, 1, 100.0, x, PERCENT, colours)]


def _learning(title: str, trainings: Sequence[Training], column: int, scale: float, x: Axis, y: Axis,
              colours: Mapping[str, str]) -> Plot:
    lines, means, ends = [], [], []
    for attack in dict.fromkeys(training.attack for training in trainings):
        own = [training for training in trainings if training.attack == attack]
        curves = [[(float(row[0]), scale * row[column]) for row in training.learning] for training in own]
        if len(curves) > 1:
            lines += [Line(colours.get(attack, "p0"), attack, path(x, y, curve), f"{attack}, seed {training.seed}", thin=True)
                      for training, curve in zip(own, curves, strict=True)]
        mean = _mean(curves)
        value = next((value for _, value in reversed(mean) if math.isfinite(value)), math.nan)
        if math.isfinite(value):
            colour = colours.get(attack, "p0")
            means.append(Line(colour, attack, path(x, y, mean), f"{attack}: {value:.1f} in the last iteration"))
            ends.append((colour, attack, f"{value:.1f}", value))
    return plot(title, "iteration", x, y, [*lines, *means], sorted(ends, key=lambda end: -end[3]))


def _mean(curves: Sequence[Points]) -> Points:
    """Over the seeds that have an iteration."""
    values: dict[float, list[float]] = {}
    for curve in curves:
        for at, value in curve:
            values.setdefault(at, []).extend([value] if math.isfinite(value) else [])
    return [(at, sum(own) / len(own) if own else math.nan) for at, own in sorted(values.items())]


def amortisation_plot(card: VideoAttackCard, colours: Mapping[str, str], paid: Sequence[VideoContrast], clips: int | None,
                      named: Container[tuple[str, str]] = ()) -> Plot | None:
    """Queries a clip, those of training included, over the number of attacked clips; None where nothing was trained.

    Args:
        paid: contrasts whose `break_even_clips` are marked; `named`, (first, second), have their number beside the mark.
        clips: those of this run.
    """
    drawn = [result for result in card.results if result.queries.mean]
    if not any(result.training_queries for result in drawn):
        return None
    furthest = max([1.0, *(result.training_queries / (0.1 * result.queries.mean) for result in drawn),
                    *(2.0 * (one.break_even_clips or 0) for one in paid)])
    x_high = 10.0 ** math.ceil(math.log10(min(furthest, MOST_CLIPS)))
    x = Axis(1.0, x_high, tens(1.0, x_high, between=(1,)), True)
    low = 0.7 * min(result.queries.mean for result in drawn)
    high = 1.2 * max(result.queries.mean + result.training_queries for result in drawn)
    y = Axis(low, high, tens(low, high, between=(1,) if high > 1e3 * low else (1, 2, 5)), True)
    steps = [x_high ** (step / STEPS) for step in range(STEPS + 1)]
    lines = [_amortised(result, x, y, colours[result.attack], steps) for result in drawn]
    ends = [(colours[result.attack], result.attack, count(result.queries.mean), per_clip(result, x_high))
            for result in sorted(drawn, key=lambda one: -per_clip(one, x_high))]
    by_name = {result.attack: result for result in drawn}
    dots = [_paid(one, by_name[one.first], x, y, colours[one.first], (one.first, one.second) in named) for one in paid
            if one.first in by_name and 0 < (one.break_even_clips or 0) <= x_high]
    return plot("Queries a clip, training included", "clips attacked", x, y, _thick_last(lines), ends, dots,
                [(float(clips), "this run")] if clips else [])


def per_clip(result: VideoAttackResult, clips: float) -> float:
    """Queries a clip when training is shared by so many."""
    return result.training_queries / clips + (result.queries.mean or 0.0)


def _amortised(result: VideoAttackResult, x: Axis, y: Axis, colour: str, steps: Sequence[float]) -> Line:
    points = [(clips, per_clip(result, clips)) for clips in (steps if result.training_queries else (1.0, x.high))]
    training = f" and {result.training_queries:,} of training" if result.training_queries else ""
    text = f"{result.attack}: {count(result.queries.mean)} queries a clip{training}"
    return Line(colour, result.attack, path(x, y, points), text, thin=result.kind == "control")


def _paid(contrast: VideoContrast, first: VideoAttackResult, x: Axis, y: Axis, colour: str, named: bool) -> Dot:
    clips = contrast.break_even_clips or 0
    text = f"{contrast.first} has paid for its training against {contrast.second} after {clips:,} clips"
    return Dot(colour, left(x, clips), top(y, per_clip(first, clips)), text,
               f"{clips:,} against {contrast.second}" if named else "")
