"""Charts of the page of masked video trainings: what arms reach, on axes with chance drawn in, and how they learned."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from squall.platform.report.charts import nice_range, number_text
from squall.platform.report.plots import Axis, Line, Plot, path, plot, short, tens
from squall.platform.report.tats_export import figure_text
from squall.platform.report.tats_tables import WHERE, part_of, parts_of
from squall.platform.tats_card import LearningPoint, TatsCard, TatsMeasure
from squall.platform.video_attack_card import Figure

FAR = 4.0
"""Times the median, from which on the first losses of a training would leave no room for the others."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One arm on a chart; places in percent of its axis."""

    arm: str
    text: str
    place: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    """Empty where there is one."""
    blind: float | None = None
    """What it would find without looking."""


@dataclass(frozen=True, slots=True)
class Strip:
    """What all arms reach of one figure."""

    title: str
    note: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    chance: float | None
    chance_text: str


def strips(card: TatsCard) -> list[Strip]:
    """Motion part by part, reconstruction under common masks, and the linear probe; without those of which nothing is known."""
    found = [_motion(card, part) for part in parts_of(card)]
    found.append(_strip("Reconstruction under common masks", "mean squared error on held-out clips; lower is better",
                        [(one.arm, one.loss_random, None) for one in card.results], _constant(card), "constant", digits=4))
    classes = next((one.probe_classes for one in card.results if one.probe_classes), None)
    found.append(_strip("Linear probe", "% of held-out clips that it names right; higher is better",
                        [(one.arm, one.probe, None) for one in card.results], 1 / classes if classes else None, "chance", 100))
    return [one for one in found if one is not None]


def _motion(card: TatsCard, part: str) -> Strip | None:
    own = [(one.arm, found) for one in card.results if (found := part_of(one, part))]
    chance = next((found.chance.mean for _, found in own), None)
    return _strip(f"Motion {WHERE[part]}", "% of drawn tokens that are on true motion",
                  [(arm, found.sampled_motion, found.blind.mean) for arm, found in own], chance, "chance", 100)


def _constant(card: TatsCard) -> float | None:
    known = [one.constant_loss for one in card.measures if one.constant_loss is not None]
    return sum(known) / len(known) if known else None


def _strip(title: str, note: str, rows: Sequence[tuple[str, Figure, float | None]], chance: float | None, chance_name: str,
           scale: float = 1.0, digits: int = 1) -> Strip | None:
    rows = [row for row in rows if row[1].mean is not None]
    if not rows:
        return None
    values = [value for _, figure, blind in rows for value in (figure.mean, figure.low, figure.high, blind, *figure.seeds)]
    low, high, ticks = nice_range([scale * value for value in (*values, chance) if value is not None])
    place = _placer(low, high, scale)
    marks = tuple(Mark(arm, figure_text(figure, scale, digits), place(figure.mean or 0.0), *map(_maybe(place), (
        figure.low, figure.high)), seeds=_seeds(figure, place), blind=_maybe(place)(blind)) for arm, figure, blind in rows)
    texts = tuple((place(tick / scale), number_text(tick, ticks)) for tick in ticks)
    return Strip(title, note, marks, texts, _maybe(place)(chance),
                 "" if chance is None else f"{chance_name} {scale * chance:.{digits}f}")


def _placer(low: float, high: float, scale: float) -> Callable[[float], float]:
    return lambda value: round(100 * (scale * value - low) / (high - low), 2)


def _maybe(place: Callable[[float], float]) -> Callable[[float | None], float | None]:
    return lambda value: None if value is None else place(value)


def _seeds(figure: Figure, place: Callable[[float], float]) -> tuple[float, ...]:
    known = [value for value in figure.seeds if value is not None]
    return tuple(map(place, known)) if len(known) > 1 else ()


def learning_plots(card: TatsCard, colours: Mapping[str, str]) -> list[Plot]:
    """Loss, motion found over chance, and entropy, over the steps: a thin line for each seed, and their mean."""
    curves: tuple[tuple[str, Callable[[LearningPoint], float | None]], ...] = (
        ("Loss under own masks", lambda one: one.loss),
        ("Motion among drawn tokens, × chance", _over_chance),
        ("Entropy of masks, share of random", lambda one: one.entropy_share),
        ("Overlap of two clips' masks", lambda one: one.overlap))
    found = [_learning(title, card.measures, read, colours) for title, read in curves]
    return [one for one in found if one is not None]


def _over_chance(point: LearningPoint) -> float | None:
    return point.motion_sampled / point.motion_chance if point.motion_sampled is not None and point.motion_chance else None


def _learning(title: str, measures: Sequence[TatsMeasure], read: Callable[[LearningPoint], float | None],
              colours: Mapping[str, str]) -> Plot | None:
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for one in measures:
        points = [(float(point.step), value) for point in one.learning if (value := read(point)) is not None]
        if len(points) > 1 and all(math.isfinite(value) for _, value in points):
            curves.setdefault(one.arm, []).append(points)
    if not curves:
        return None
    flat = [point for own in curves.values() for curve in own for point in curve]
    last = max(at for at, _ in flat)
    x = Axis(0.0, last, tuple((tick, short(tick)) for tick in nice_range([0.0, last])[2] if tick <= last))
    y, text_of = _upright([value for _, value in flat])
    lines, means, ends = [], [], []
    for arm, own in curves.items():
        if len(own) > 1:
            lines += [Line(colours[arm], arm, path(x, y, curve), f"{arm}, a seed", thin=True) for curve in own]
        mean = [(column[0][0], sum(value for _, value in column) / len(column)) for column in zip(*own, strict=False)]
        text = text_of(mean[-1][1])
        means.append(Line(colours[arm], arm, path(x, y, mean), f"{arm}: {text} at last"))
        ends.append((colours[arm], arm, text, mean[-1][1]))
    return plot(title, "step", x, y, [*lines, *means], sorted(ends, key=lambda end: -end[3]))


def _upright(values: Sequence[float]) -> tuple[Axis, Callable[[float], str]]:
    """The axis of these values, logarithmic where a few are far above all others, and how a value is written."""
    low, high = min(values), max(values)
    if low > 0 and high > FAR * statistics.median(values):
        return Axis(low, high, tens(low, high), True), lambda value: f"{value:#.3g}"
    low, high, ticks = nice_range(values)
    axis = Axis(low, high, tuple((tick, number_text(tick, ticks)) for tick in ticks))
    return axis, lambda value: number_text(round(value, 6) + 0.0, ticks, extra=1)
