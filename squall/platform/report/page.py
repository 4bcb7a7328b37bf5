"""Turns a run's numbers into the page. Words and layout are in the templates; this file prepares what they show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from squall.platform.records import VideoSample
from squall.platform.report.charts import training_charts
from squall.platform.report.images import Animation, animate
from squall.platform.runs import RunDirectory, write_text


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """One answer of the model and whether it is right."""

    text: str
    correct: bool

    @property
    def final(self) -> str | None:
        """What stands in the answer tag, to be shown first; None without one."""
        match = re.search(r"<answer>(.*?)</answer>", self.text, re.DOTALL)
        return match[1].strip() if match else None


@dataclass(frozen=True, slots=True)
class ExampleClip:
    """One held-out question with both of its clips and the answers before and after training."""

    sample: VideoSample
    corruption: str
    """Kind, such as ``rain``."""
    severity: float
    """In [0, 1]."""
    clean_frames: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    corrupted_frames: np.ndarray
    """uint8 (T, H, W, 3), RGB; T may differ from the clean clip's."""
    fps: float
    """Frames per second of both clips; the page plays them at this rate."""
    clean_before: ExampleAnswer
    clean_after: ExampleAnswer
    corrupted_before: ExampleAnswer
    corrupted_after: ExampleAnswer


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
    examples: Sequence[ExampleClip] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write report.html and return its path. Everything is inside the file; all text is escaped.

    `results` is what results.json holds (fractions in [0, 1]); sections whose numbers are missing are left out.
    `metrics` are rows of metrics.jsonl, one per step. config.yaml and provenance.json are read from the run directory.
    """
    effects = [_effect(name, name, results[name]) for name in ("corrupted", "clean") if name in results]
    page = _environment().get_template("page.html.jinja").render(
        title=title,
        run_name=run.name,
        results=results,
        headline=effects,
        tables=_tables(results),
        charts=training_charts(metrics),
        examples=[_example(example) for example in examples],
        notes=notes,
        groups=_groups(results, metrics),
        dropped=_dropped(results, metrics),
        seconds=_seconds(results, metrics),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else None,
        provenance=json.loads(run.provenance.read_text(encoding="utf-8")) if run.provenance.exists() else {},
    )
    write_text(run.report, page)
    return run.report


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"signed": signed, "duration": duration, "spread": lambda n: f"{n:,}".replace(",", "\u202f")}
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
    return [_effect_table(heading, effects) for heading, effects in tables if effects]


def _effect_table(heading: str, effects: Sequence[Effect]) -> EffectTable:
    low = min(0.0, *(effect.low for effect in effects))
    high = max(0.0, *(effect.high for effect in effects))
    margin = 0.06 * max(high - low, 1.0)
    low, high = low - margin, high + margin
    unit = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 6)
    ticks = tuple(float(tick) for tick in range(-200, 201, unit) if tick % unit == 0 and low <= tick <= high)
    return EffectTable(heading, tuple(effects), low, high, ticks)


def _example(example: ExampleClip) -> dict[str, Any]:
    corruption = example.corruption.replace("_", " ")
    clips: list[tuple[str, str, Animation]] = [
        ("clean", "", animate(example.clean_frames, example.fps)),
        (corruption, f"severity {example.severity:.2g}", animate(example.corrupted_frames, example.fps)),
    ]
    answers = [("clean", example.clean_before, example.clean_after),
               ("corrupted", example.corrupted_before, example.corrupted_after)]
    return {"sample": example.sample, "clips": clips, "answers": answers,
            "options": [(option, _is_solution(option, example.sample.solution)) for option in example.sample.options]}


def _is_solution(option: str, solution: str) -> bool:
    letter, dot, words = option.partition(".")
    accepted = {option.strip(), words.strip()} | ({letter.strip()} if dot else set())
    return solution.strip().rstrip(".") in accepted


def _groups(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    totals = _totals(metrics, "groups/")
    return {name: int(totals[name]) for name in ("sampled", "trained") if name in totals}


def _dropped(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    counts = results.get("dropped") or _totals(metrics, "dropped/")
    return [(reason.replace("_", " "), int(n)) for reason, n in sorted(counts.items(), key=lambda item: -item[1])]


def _seconds(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the sum in percent), longest first."""
    seconds = results.get("seconds") or _totals(metrics, "time/")
    phases = {name: float(value) for name, value in seconds.items() if name != "total"}
    whole = sum(phases.values()) or 1.0
    ordered = sorted(phases.items(), key=lambda item: -item[1])
    return [(name.replace("_", " "), value, 100 * value / whole) for name, value in ordered]


def _totals(metrics: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for row in metrics:
        for name, value in row.items():
            if name.startswith(prefix) and value is not None:
                totals[name.removeprefix(prefix)] = totals.get(name.removeprefix(prefix), 0.0) + value
    return totals

