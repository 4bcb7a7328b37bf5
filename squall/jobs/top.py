"""Watch a run on the terminal: phase, curves, where the time goes, workers, what was dropped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from squall.platform.config import Config, read_yaml
from squall.platform.live import read_live
from squall.platform.progress import clock
from squall.platform.report.balance import lines
from squall.platform.report.status import RunStatus, run_status
from squall.platform.runs import RunDirectory
from squall.platform.tracking import read_metrics

CURVES = (("reward/mean", "reward"), ("accuracy/clean", "clean"), ("accuracy/corrupted", "corrupted"),
          ("accuracy/shuffled", "shuffled"), ("loss", "loss"), ("kl", "KL"), ("tokens_per_s", "tokens/s"))
RECENT = 10
"""Steps that means are taken over."""
BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {"healthy": "green", "suspect": "yellow", "stale": "yellow", "restarting": "red", "dead": "red", "retired": "dim"}


class TopConfig(Config):
    """Which run, and how often to look."""

    run: Path
    """Run directory: running, finished or dead."""
    interval_s: float = Field(1.0, gt=0)
    """Seconds between two looks."""
    once: bool = False
    """Print one look and end, as it is anyhow where the output is no terminal."""


def run(config: TopConfig) -> int:
    """Show a run until it ends or Ctrl-C is pressed."""
    directory, console = RunDirectory.open(config.run), Console()
    if config.once or not console.is_terminal:
        console.print(view(directory, console.width))
        return 0
    with Live(view(directory, console.width), console=console, refresh_per_second=4, screen=True) as live:
        try:
            while run_status(directory).state == "running":
                time.sleep(config.interval_s)
                live.update(view(directory, console.width))
        except KeyboardInterrupt:
            pass
    console.print(view(directory, console.width))
    return 0


def view(run: RunDirectory, width: int) -> RenderableType:
    """One look at a run."""
    rows, status, now = read_metrics(run.metrics), run_status(run), read_live(run.live)
    steps = [row for row in rows if "seconds_per_step" in row]
    settings = read_yaml(run.config) if run.config.exists() else {}
    parts: list[RenderableType] = [head(status, now, steps, settings.get("steps")), Text()]
    if steps:
        parts += [curves(steps, max(10, width - 44)), Text(), times(steps), Text(), *kinds(steps)]
        parts += [*(Text(line, "dim") for line in lines(steps, settings)), Text()]
    parts += [workers(now if status.state == "running" else {}), losses(rows), Text(f"last event: {status.last_event}", "dim")]
    return Panel(Group(*parts), title=Text(f"{settings.get('job', '')} {run.name}".strip(), "bold"), border_style="blue")


def head(status: RunStatus, now: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], total: int | None) -> RenderableType:
    """State, phase, steps and time left."""
    done = steps[-1]["step"] if steps else 0
    pace = fmean(row["seconds_per_step"] for row in steps[-RECENT:]) if steps else None
    running = status.state == "running"
    phase = f"{now['phase']}  {clock(time.time() - now['since'])}" if running and now.get("phase") else status.sentence
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    left = f"   left {clock(pace * (total - done))}" if running and pace and total else ""
    grid.add_row(Text.assemble(("● ", "green" if running or status.finished else "red"), (phase, "bold")),
                 Text((f"{pace:.1f} s a step" if pace else "") + left, "dim"))
    grid.add_row(ProgressBar(total=total or 1, completed=done), Text(f"step {done} of {total or '?'}"))
    return grid


def curves(steps: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """The mean of the latest steps and the whole course of each figure."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right", style="bold cyan")
    grid.add_column(no_wrap=True, overflow="crop")
    for name, label in CURVES:
        values = [float(row[name]) for row in steps if row.get(name) is not None]
        if values:
            grid.add_row(label, f"{fmean(values[-RECENT:]):,.4g}", spark(values, width))
    return grid


def spark(values: Sequence[float], width: int) -> str:
    """A line of block characters, one for each value or for the mean of neighbours where there are more than `width`."""
    size = max(1, -(-len(values) // width))
    means = [fmean(values[start:start + size]) for start in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((value - low) / (high - low) * 7) if high > low else 3] for value in means)


def times(steps: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Where the latest steps' time went, and who waited."""
    recent = steps[-RECENT:]
    whole = fmean(row["seconds_per_step"] for row in recent)
    phases = Counter({name.removeprefix("time/"): fmean(row.get(name) or 0.0 for row in recent)
                      for name in {name for row in recent for name in row if name.startswith("time/")}})
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    grid.add_column()
    for phase, seconds in phases.most_common():
        grid.add_row(phase, f"{seconds:.2f} s", Text("█" * round(30 * min(1.0, seconds / whole)), "blue"))
    for name, label in (("idle/trainer", "learner waits"), ("idle/rollout", "engines wait")):
        shares = [row[name] for row in recent if row.get(name) is not None]
        if shares:
            grid.add_row(label, f"{fmean(shares):.0%}", Text("░" * round(30 * fmean(shares)), "yellow"))
    return grid


def kinds(steps: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Clean minus corrupted accuracy and time to corrupt a clip, for each corruption that the latest steps met."""
    gaps: dict[str, list[float]] = {}
    for row in steps[-RECENT:]:
        for name, value in row.items():
            if name.startswith("gap/") and value is not None:
                gaps.setdefault(name.removeprefix("gap/"), []).append(value)
    if not gaps:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for _ in range(2):
        table.add_column(justify="right")
    table.add_row("corruption", Text("gap", "dim"), Text("ms a clip", "dim"))
    for kind, values in sorted(gaps.items(), key=lambda item: -fmean(item[1])):
        costs = [row[f"corruption_ms/{kind}"] for row in steps[-RECENT:] if row.get(f"corruption_ms/{kind}") is not None]
        table.add_row(kind, f"{fmean(values):+.3f}", f"{fmean(costs):.1f}" if costs else "")
    return [table, Text()]


def workers(now: Mapping[str, Any]) -> RenderableType:
    """Every worker in the colour of its state; of those that are not healthy the state too."""
    text = Text("workers: ", "dim")
    for name, state in sorted(now.get("workers", {}).items()):
        text.append(name if state == "healthy" else f"{name} ({state})", COLOURS.get(state, ""))
        text.append("  ")
    return text if now.get("workers") else Text("workers: none", "dim")


def losses(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Groups that were not trained on and groups that were sampled again, by reason."""
    totals: dict[str, Counter[str]] = {"dropped": Counter(), "retried": Counter()}
    for row in rows:
        for name, value in row.items():
            family, _, reason = name.partition("/")
            if family in totals and value:
                totals[family][reason] += int(value)
    return Text("   ".join(f"{family}: " + (", ".join(f"{reason} {n}" for reason, n in counts.most_common()) or "none")
                           for family, counts in totals.items()), "dim")
