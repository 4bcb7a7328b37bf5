"""Training curves as small SVG charts. Colours are CSS classes, so that one drawing serves light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 40, 312, 10, 152
MAX_POINTS, MAX_BARS = 300, 48

Values = list[float | None]

PANELS: tuple[tuple[str, str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("training", "Accuracy while training", "sampled answers, by what the model saw",
     (("accuracy/clean", "clean", "clean"), ("accuracy/corrupted", "corrupted", "corrupted"),
      ("accuracy/shuffled", "shuffled", "shuffled"))),
    ("training", "Reward", "mean over all scored answers", (("reward/mean", "reward", "c1"),)),
    ("training", "Temporal contrast", "groups where it acted; gap to shuffled frames",
     (("contrast/effective", "effective", "c1"), ("contrast/gap", "gap", "c2"))),
    ("training", "Alignment", "trained answers with those of the other branch",
     (("reward/consistency", "answers", "c1"), ("reward/reasoning", "reasoning", "c2"), ("reward/alignment", "both", "c3"))),
    ("training", "Difficulty", "share of assessed questions",
     (("difficulty/easy", "easy", "c1"), ("difficulty/informative", "informative", "c2"),
      ("difficulty/difficult", "difficult", "c3"))),
    ("training", "Memory of difficult questions", "questions that wait, and what became of them in each step",
     (("memory/size", "waiting", "c1"), ("memory/promoted", "promoted", "c2"), ("memory/evicted", "given up", "c3"))),
    ("classifier", "Accuracy", "share that is right: trained on, for validation, validation under attack",
     (("accuracy/train", "train", "c1"), ("accuracy/validation", "validation", "c2"), ("accuracy/attacked", "attacked", "c3"))),
    ("classifier", "Reward and exploration", "mean reward of drawn classes; share drawn at random",
     (("reward", "reward", "c1"), ("exploration", "exploration", "c2"))),
    ("classifier", "Predictive entropy", "nats per image", (("predictive_entropy", "entropy", "c1"),)),
    ("classifier", "Length of the gradient", "before clipping", (("grad_norm", "gradient", "c1"),)),
    ("classifier", "Learning rate", "", (("learning_rate", "rate", "c1"),)),
    ("classifier", "Images without a gradient", "share that FGSM left as they were", (("unchanged", "unchanged", "c1"),)),
    ("learner", "KL to the reference", "k3 estimate, nats per token", (("kl", "KL", "c1"),)),
    ("learner", "Entropy", "nats per token", (("entropy", "entropy", "c1"),)),
    ("learner", "Loss", "", (("loss", "loss", "c1"),)),
    ("learner", "Clipped tokens", "share of tokens at the ratio's bounds", (("clip_fraction", "clipped", "c1"),)),
    ("learner", "Engine-learner mismatch", "mean |Δ log-probability| per token",
     (("mismatch/abs_logprob", "mismatch", "c1"),)),
    ("learner", "Importance weights", "learner against engine", (("tis/mean", "mean", "c1"), ("tis/max", "max", "c2"))),
    ("time", "Idle", "share of each step spent waiting",
     (("idle/trainer", "learner", "c1"), ("idle/rollout", "engines", "c2"))),
    ("time", "Staleness", "weight versions between sampling and training",
     (("staleness/mean", "mean", "c1"), ("staleness/max", "max", "c2"))),
    ("time", "Groups per step", "", (("groups/sampled", "sampled", "c2"), ("groups/trained", "trained", "c1"))),
)
"""Section of the page, title, note and (metric, label, colour class) of each line chart."""


@dataclass(frozen=True, slots=True)
class Legend:
    """One entry: label, colour class and latest value as text."""

    label: str
    colour: str
    value: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws: SVG fragments as lists of coordinates, a legend and the data for the pointer."""

    section: str
    """``training``, ``classifier``, ``learner`` or ``time``."""
    title: str
    note: str
    lines: tuple[tuple[str, str, str], ...]
    """(colour class, ``raw`` or ``mean``, path data)."""
    bars: tuple[tuple[str, float, float, float, float, str], ...]
    """(colour class, x, y, width, height, text)."""
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    legend: tuple[Legend, ...]
    pointer: str
    """JSON with ``x`` positions, ``steps`` and one list of texts per legend entry."""


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts that these rows have at least two steps of numbers for, phase times last."""
    charts = []
    for section, title, note, series in PANELS:
        present = [entry for entry in series if any(_number(row.get(entry[0])) is not None for row in metrics)]
        rows = [row for row in metrics if any(name in row for name, _, _ in present)]
        if len(rows) > 1:
            charts.append(line_chart(section, title, note, rows, present))
    phases = dict.fromkeys(name for row in metrics for name in row if name.startswith("time/"))
    rows = [row for row in metrics if any(name in row for name in phases)]
    return charts + ([stacked_chart("time", "Time per step", "seconds, by phase", rows, list(phases))] if len(rows) > 1 else [])


def line_chart(
    section: str, title: str, note: str, rows: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str, str]]
) -> Chart:
    """Lines over the step; with 20 points or more a running mean is drawn over the pale raw values."""
    size = -(-len(rows) // MAX_POINTS)
    steps = [chunk[-1]["step"] for chunk in _chunks(rows, size)]
    columns = [_binned(rows, name, size) for name, _, _ in series]
    low, high, ticks = nice_range([value for column in columns for value in column if value is not None])
    xs = _x_positions(steps)
    lines, legend = [], []
    for column, (_, label, colour) in zip(columns, series, strict=True):
        means = running_mean(column, max(1, len(column) // 20))
        if means != column:
            lines.append((colour, "raw", line_path(xs, column, low, high)))
        lines.append((colour, "mean", line_path(xs, means, low, high)))
        legend.append(Legend(label, colour, number_text(_last(means), ticks, extra=1)))
    pointer = _pointer(xs, steps, columns, ticks)
    return Chart(section, title, note, tuple(lines), (), y_tick_texts(ticks), _x_ticks(steps), tuple(legend), pointer)


def stacked_chart(
    section: str, title: str, note: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Chart:
    """Stacked bars over the step; several steps share a bar when there are many."""
    size = -(-len(rows) // MAX_BARS)
    steps = [chunk[-1]["step"] for chunk in _chunks(rows, size)]
    columns = [[value or 0.0 for value in _binned(rows, name, size)] for name in names]
    low, high, ticks = nice_range([0.0, *(sum(values) for values in zip(*columns, strict=True))])
    pitch = (RIGHT - LEFT) / len(steps)
    xs = [LEFT + pitch * (position + 0.5) for position in range(len(steps))]
    bars, base = [], [0.0] * len(steps)
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        for position, value in enumerate(column):
            bottom, top = y_place(base[position], low, high), y_place(base[position] + value, low, high)
            text = f"step {steps[position]}: {_phase(name)} {value:.2f} s"
            bars.append((f"p{number % 6}", round(xs[position] - 0.42 * pitch, 2), round(top, 2), round(0.84 * pitch, 2),
                         round(bottom - top, 2), text))
            base[position] += value
    legend = tuple(Legend(_phase(name), f"p{number % 6}", number_text(sum(column) / len(column), ticks, extra=2))
                   for number, (name, column) in enumerate(zip(names, columns, strict=True)))
    x_ticks = tuple((xs[position], str(steps[position])) for position in sorted({0, len(xs) // 2, len(xs) - 1}))
    pointer = _pointer(xs, steps, columns, ticks)
    return Chart(section, title, note, (), tuple(bars), y_tick_texts(ticks), x_ticks, legend, pointer)


def running_mean(values: Values, reach: int) -> Values:
    """Mean of each value and its `reach` neighbours on either side, gaps kept; with under 20 points the values."""
    if len(values) < 20:
        return values
    means: Values = []
    for position, value in enumerate(values):
        near = [v for v in values[max(0, position - reach):position + reach + 1] if v is not None]
        means.append(None if value is None else sum(near) / len(near))
    return means


def number_text(value: float | None, ticks: Sequence[float], extra: int = 0) -> str:
    """A number with the decimals that tell the ticks apart, and `extra` more; powers of ten for very small scales."""
    if value is None:
        return "–"
    exponent = math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)
    if max(map(abs, ticks)) < 2e-3:
        power = math.floor(math.log10(max(map(abs, ticks))) + 1e-9)
        digits = f"{value / 10.0**power:.{max(0, power - exponent) + extra}f}"
        return "0" if float(digits) == 0 else f"{digits}e{power}".replace("-", "−")
    half = any(abs(tick / 10.0**exponent - round(tick / 10.0**exponent)) > 1e-6 for tick in ticks)
    return f"{value:,.{max(0, -exponent + half) + extra}f}".replace("-", "−")


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _phase(name: str) -> str:
    return name.removeprefix("time/").replace("_", " ")


def _chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def _binned(rows: Sequence[Mapping[str, Any]], name: str, size: int) -> Values:
    chunks = ([v for row in chunk if (v := _number(row.get(name))) is not None] for chunk in _chunks(rows, size))
    return [sum(chunk) / len(chunk) if chunk else None for chunk in chunks]


def _last(values: Values) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def nice_range(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """(low, high, ticks) around the values; zero is included when it is near."""
    low, high = min(values), max(values)
    if 0 <= low < 0.6 * high:
        low = 0.0
    if high - low < 1e-12:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    ticks = [round(count * unit, 12) for count in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _x_positions(steps: Sequence[int]) -> list[float]:
    span = max(steps) - min(steps) or 1
    return [round(LEFT + (RIGHT - LEFT) * (step - min(steps)) / span, 2) for step in steps]


def y_place(value: float, low: float, high: float) -> float:
    """Where a value stands between the ends of the axis."""
    return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def line_path(xs: Sequence[float], values: Values, low: float, high: float) -> str:
    """Path data through the values; a gap where one is missing."""
    parts, pen = [], "M"
    for x, value in zip(xs, values, strict=True):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:g} {y_place(value, low, high):.1f}")
        pen = "L"
    return "".join(parts)


def y_tick_texts(ticks: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """(y, text) of each tick."""
    return tuple((round(y_place(tick, ticks[0], ticks[-1]), 2), number_text(tick, ticks)) for tick in ticks)


def _x_ticks(steps: Sequence[int]) -> tuple[tuple[float, str], ...]:
    marks = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
    span = max(steps) - min(steps) or 1
    return tuple((round(LEFT + (RIGHT - LEFT) * (step - min(steps)) / span, 2), str(step)) for step in marks)


def _pointer(xs: Sequence[float], steps: Sequence[int], columns: Sequence[Values], ticks: Sequence[float]) -> str:
    values = [[number_text(value, ticks, extra=1) for value in column] for column in columns]
    return json.dumps({"x": [round(x, 1) for x in xs], "steps": list(steps), "values": values}, separators=(",", ":"))
