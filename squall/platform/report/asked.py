"""One question and its answers, in the terminal and as a page where the clips play beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from squall.platform.records import VideoSample
from squall.platform.report.examples import is_solution
from squall.platform.report.images import animate
from squall.platform.report.page import template_environment
from squall.platform.runs import write_text

SHOWN_REASONING = 400
"""Characters of reasoning in the terminal; the page has all of it."""


@dataclass(frozen=True, slots=True)
class AskedAnswer:
    """One answer, or several that say the same."""

    final: str
    """What the model answers, without tags."""
    reasoning: str | None
    text: str
    """Everything that it wrote."""
    count: int
    """How many of the view's answers say this."""
    verdict: str | None
    """Such as ``right`` or ``changed``; None where there is nothing to compare with."""
    good: bool | None
    """Whether the verdict is a good one."""
    note: str | None = None
    """What is odd about it, such as an end at the token limit."""


@dataclass(frozen=True, slots=True)
class AskedView:
    """One input to the model and its answers about it."""

    name: str
    """``clean`` or the corruption's kind."""
    severity: float | None
    """In [0, 1]; None for the clean clip."""
    frames: np.ndarray
    """uint8 (T, H, W, 3), RGB: what the model saw."""
    fps: float
    answers: tuple[AskedAnswer, ...]
    """Most frequent first."""


def write_asked(path: Path, sample: VideoSample, views: Sequence[AskedView], facts: Mapping[str, str],
                command: str) -> Path:
    """Write the page and return its path. Everything is inside the file; all text is escaped.

    Args:
        facts: what to list below the answers, by name.
        command: the command line that makes the page again.
    """
    shown = [{"view": view, "clip": animate(view.frames, view.fps), "total": sum(answer.count for answer in view.answers)}
             for view in views]
    options = [(option, bool(sample.solution) and is_solution(option, sample.solution)) for option in sample.options]
    page = template_environment().get_template("asked.html.jinja").render(
        sample=sample, shown=shown, options=options, facts=facts, command=command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def print_asked(sample: VideoSample, views: Sequence[AskedView], console: Console) -> None:
    """Print the question, and the answers to each view below each other: a row for every answer that means something else."""
    console.print(Text(f"\n{sample.problem}", "bold"))
    if sample.options:
        console.print(Text("   ".join(sample.options)))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    several = any(sum(answer.count for answer in view.answers) > 1 for view in views)
    marked = any(answer.verdict is not None for view in views for answer in view.answers)
    table.add_column("input", no_wrap=True)
    table.add_column("answer", style="bold", overflow="fold")
    if several:
        table.add_column("of", justify="right", no_wrap=True)
    if marked:
        table.add_column("", no_wrap=True)
    table.add_column("reasoning", overflow="fold", style="dim")
    for view in views:
        total = sum(answer.count for answer in view.answers)
        for number, answer in enumerate(view.answers):
            name = view.name if view.severity is None else f"{view.name} {view.severity:g}"
            cells = [Text(name if number == 0 else ""), Text(answer.final)]
            cells += [Text(f"{answer.count}/{total}")] if several else []
            cells += [_verdict(answer)] if marked else []
            table.add_row(*cells, Text(_reasoning(answer)))
    console.print(table)


def _verdict(answer: AskedAnswer) -> Text:
    if answer.verdict is None:
        return Text("")
    return Text(f"{'✓' if answer.good else '✗'} {answer.verdict}", "green" if answer.good else "red")


def _reasoning(answer: AskedAnswer) -> str:
    text = answer.reasoning or ""
    text = text if len(text) <= SHOWN_REASONING else f"{text[:SHOWN_REASONING].rstrip()} …"
    return " ".join(part for part in (text, f"[{answer.note}]" if answer.note else "") if part)
