"""Turns a run's numbers into the page. Words and layout are in the templates; this file prepares what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from squall.platform.report.balance import bound
from squall.platform.report.breakdown import breakdowns
from squall.platform.report.charts import training_charts
from squall.platform.report.examples import ExampleClip, TrainingExample, held_out_card, training_card
from squall.platform.report.losses import losses, totals
from squall.platform.report.status import FINISHED, RunStatus
from squall.platform.runs import RunDirectory, read_json, write_text


@dataclass(frozen=True, slots=True)
class Effect:
    """A paired difference as the page shows it. Accuracies in percent, differences in points."""

    label: str
    branch: str
    n: int | None
    before: float
    after: float
    diff: float
    low: float
    high: float

    @property
    def reading(self) -> str:
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "unclear"


@dataclass(frozen=True, slots=True)
class EffectTable:
    """Effects drawn on one axis of points."""

    heading: str
    effects: tuple[Effect, ...]
    axis_low: float
    axis_high: float
    ticks: tuple[float, ...]

    @property
    def has_n(self) -> bool:
        return any(effect.n is not None for effect in self.effects)

    def place(self, points: float) -> float:
        """Position on the axis in percent."""
        return 100 * (points - self.axis_low) / (self.axis_high - self.axis_low)


def write_report(
    run: RunDirectory,
    *,
    title: str,
    results: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    status: RunStatus = FINISHED,
    settings: Mapping[str, Any] | None = None,
    answers: pa.Table | None = None,
    examples: Sequence[ExampleClip] = (),
    best: Sequence[TrainingExample] = (),
    worst: Sequence[TrainingExample] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write report.html and return its path. Everything is inside the file; all text is escaped.

    `results` is what results.json holds (fractions in [0, 1]); sections whose numbers are missing are left out.
    `metrics` are rows of metrics.jsonl, one per step; `settings` what config.yaml says; `answers` is
    `squall.platform.answers.Answers.table` over all stored answers; `best` and `worst` are training questions, `examples`
    held-out ones. config.yaml and provenance.json are read from the run directory.
    """
    effects = [_effect(name, name, results[name]) for name in ("corrupted", "clean") if name in results]
    page = template_environment().get_template("page.html.jinja").render(
        title=title,
        run_name=run.name,
        status=status,
        results=results,
        headline=effects,
        tables=_tables(results),
        charts=training_charts(metrics),
        breakdowns=breakdowns(answers),
        examples=[held_out_card(example) for example in examples],
        training=[(heading, [training_card(example) for example in chosen])
                  for heading, chosen in (("Earned most", best), ("Earned least", worst)) if chosen],
        notes=notes,
        groups=_groups(metrics),
        losses=losses(results, metrics),
        seconds=_seconds(results, metrics),
        bound=bound(metrics, settings or {}),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else None,
        provenance=read_json(run.provenance),
    )
    write_text(run.report, page)
    return run.report


def template_environment() -> Environment:
    """Templates of this folder, with escaping and the filters that they use."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"signed": signed, "duration": duration, "spread": lambda n: f"{n:,}".replace(",", "\u202f"),
                            "whole": lambda percent: "–" if math.isnan(percent) else f"{percent:.0f}"}
    return environment


def signed(points: float) -> str:
    """``+5.6`` or ``−0.4`` with a real minus sign; what rounds to zero has no sign."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _effect(label: str, branch: str, value: Mapping[str, Any], n: int | None = None) -> Effect:
    low, high = value["ci95"]
    points = (100 * float(number) for number in (value["before"], value["after"], value["diff"], low, high))
    return Effect(label, branch, value.get("n", n), *points)


def _tables(results: Mapping[str, Any]) -> list[EffectTable]:
    by_kind, by_type = results.get("by_kind", {}), results.get("by_question_type", {})
    kinds = [_effect(kind.replace("_", " "), "corrupted", value) for kind, value in by_kind.items()]
    types = [_effect(name, branch, branches[branch], branches.get("n")) for name, branches in by_type.items()
             for branch in ("clean", "corrupted") if branch in branches]
    tables = (("By corruption", kinds), ("By question type", types))
    return [effect_table(heading, effects) for heading, effects in tables if effects]


def effect_table(heading: str, effects: Sequence[Effect]) -> EffectTable:
    """The effects on an axis that holds all their intervals and zero."""
    low = min(0.0, *(effect.low for effect in effects))
    high = max(0.0, *(effect.high for effect in effects))
    margin = 0.06 * max(high - low, 1.0)
    low, high = low - margin, high + margin
    unit = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 6)
    ticks = tuple(float(tick) for tick in range(-200, 201, unit) if tick % unit == 0 and low <= tick <= high)
    return EffectTable(heading, tuple(effects), low, high, ticks)


def _groups(metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts = totals(metrics, "groups/")
    return {name: int(counts[name]) for name in ("sampled", "trained") if name in counts}


def _seconds(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the sum in percent), longest first."""
    seconds = results.get("seconds") or totals(metrics, "time/")
    phases = {name: float(value) for name, value in seconds.items() if name != "total"}
    whole = sum(phases.values()) or 1.0
    ordered = sorted(phases.items(), key=lambda item: -item[1])
    return [(name.replace("_", " "), value, 100 * value / whole) for name, value in ordered]
