"""What a job shows while it runs: a live panel on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

FIGURES = {
    "reward/mean": "reward",
    "accuracy/clean": "clean",
    "accuracy/corrupted": "corrupted",
    "accuracy/shuffled": "shuffled",
    "contrast/gap": "gap",
    "kl": "KL",
    "reward": "reward",
    "accuracy/train": "train",
    "accuracy/validation": "validation",
    "accuracy/attacked": "attacked",
}
"""Metric name to short label, in the order shown."""

OUTERMOST = "preparing"
"""What is shown between phases."""


class JobProgress:
    """Context manager that shows phase, steps, moving means of the last `window` steps, dropped groups and time left.

    On a terminal it redraws in place. Elsewhere it prints plain lines without escape codes: at once for a note, at most
    every `interval_s` seconds for progress, and always for the last step.
    """

    def __init__(self, title: str, total_steps: int, *, done_steps: int = 0, console: Console | None = None,
                 window: int = 10, interval_s: float = 5.0, log: Callable[[str], None] = lambda line: None) -> None:
        """`log` gets every plain line too, on a terminal as well."""
        self._title, self._total, self._first, self._done = title, total_steps, done_steps, done_steps
        self._console = console or Console()
        self._interval_s, self._log = interval_s, log
        self._figures: dict[str, deque[float]] = {name: deque(maxlen=window) for name in FIGURES}
        self._step_seconds: deque[float] = deque(maxlen=window)
        self._dropped: Counter[str] = Counter()
        self._phase = OUTERMOST
        self.on_phase: Callable[[str], None] = lambda phase: None
        """Called with every phase that is entered."""
        self._started = self._last_step = self._phase_started = time.monotonic()
        self._last_line = float("-inf")
        self._bar = Progress(BarColumn(None), MofNCompleteColumn(), TextColumn("{task.percentage:3.0f} %"), expand=True)
        self._task = self._bar.add_task("steps", total=total_steps, completed=done_steps)
        self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=False)

    def __enter__(self) -> JobProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = "done" if kind is None else "stopped"
        if self._console.is_terminal:
            self._live.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show what the job is doing for the length of a block; the outer phase comes back after it.

        In a log an outermost phase before the first step or after the last gets a line of its own.
        """
        outer = self._phase
        self._enter_phase(name)
        self._line(force=outer == OUTERMOST and self._done in (self._first, self._total))
        try:
            yield
        finally:
            self._enter_phase(outer)

    def begin_step(self) -> None:
        """A step starts. What came before the first one is not counted into the pace."""
        if not self._step_seconds:
            self._last_step = time.monotonic()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is finished; `step` counts finished steps. Metrics not in `FIGURES` are ignored."""
        now = time.monotonic()
        self._step_seconds.append((now - self._last_step) / max(1, step - self._done))
        self._last_step, self._done = now, step
        for name, values in self._figures.items():
            if name in metrics:
                values.append(float(metrics[name]))
        self._bar.update(self._task, completed=step)
        self._line(force=step >= self._total)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count groups that did not reach the learner."""
        self._dropped[reason] += count

    def note(self, text: str) -> None:
        """One line that stays: above the live panel, or in the log."""
        if self._console.is_terminal:
            self._console.print(Text(text))
        self._write(text)

    def time_left_s(self) -> float | None:
        """Seconds to the last step at the pace of the latest ones; None before the first step."""
        return fmean(self._step_seconds) * max(0, self._total - self._done) if self._step_seconds else None

    def _enter_phase(self, name: str) -> None:
        self._phase, self._phase_started = name, time.monotonic()
        self.on_phase(name)

    def _means(self) -> dict[str, float]:
        return {FIGURES[name]: fmean(values) for name, values in self._figures.items() if values}

    def _line(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_line < self._interval_s:
            return
        self._last_line = now
        left = self.time_left_s()
        parts = [f"{self._title}: step {self._done}/{self._total}", self._phase]
        parts += [f"{label} {value:.3f}" for label, value in self._means().items()]
        parts += [f"dropped {_counts(self._dropped)}"] if self._dropped else []
        parts += [f"elapsed {clock(now - self._started)}"] + ([f"left {clock(left)}"] if left is not None else [])
        self._write(" | ".join(parts))

    def _write(self, line: str) -> None:
        self._log(line)
        if self._console.is_terminal:
            return
        self._console.file.write(line + "\n")  # not through rich: it would wrap the line at 80 columns
        self._console.file.flush()

    def _panel(self) -> Panel:
        now, left = time.monotonic(), self.time_left_s()
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        in_phase = (f"  {clock(now - self._phase_started)}", "dim")
        times = f"elapsed {clock(now - self._started)}   left {clock(left) if left is not None else '…'}"
        head.add_row(Text.assemble(("● ", "green"), (self._phase, "bold"), in_phase), Text(times, "dim"))
        figures = Table.grid(expand=True)
        means = self._means()
        for _ in means:
            figures.add_column(justify="center", ratio=1)
        figures.add_row(*(Text(label, "dim") for label in means))
        figures.add_row(*(Text(f"{value:.3f}", "bold cyan") for value in means.values()))
        dropped = Text(f"dropped groups: {_counts(self._dropped) or 'none'}", "yellow" if self._dropped else "dim")
        return Panel(Group(head, self._bar, figures, dropped), title=Text(self._title, "bold"), border_style="blue")


def clock(seconds: float) -> str:
    """``75`` becomes ``1:15``, ``3700`` becomes ``1:01:40``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print accuracy before and after, the paired difference and its 95 % interval, in a table.

    `results` is what results.json holds: fractions in [0, 1] under ``clean``, ``corrupted``, ``by_kind`` and
    ``by_question_type``.
    """
    console = console or Console()
    title = f"Held-out accuracy, n = {results['n']:,} questions, seed {results['seed']}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False,
                  collapse_padding=True)
    for name in ("", "before", "after", "points", "95 % interval", "reading"):
        table.add_column(name, justify="left" if name in ("", "reading") else "right", no_wrap=True)
    for section in _sections(results):
        for label, effect in section:
            table.add_row(Text(label), *_cells(effect))
        table.add_section()
    console.print(table)
    if drop := results.get("relative_drop"):
        before, after = ("not defined" if math.isnan(drop[when]) else f"{drop[when]:.1%}" for when in ("before", "after"))
        console.print(f"Relative drop under corruption: {before} before, {after} after")


def _sections(results: Mapping[str, Any]) -> list[list[tuple[str, Mapping[str, Any]]]]:
    kinds = list(results.get("by_kind", {}).items())
    both = ("clean", "corrupted")
    types = [(f"{name}, {branch}", branches[branch]) for name, branches in results.get("by_question_type", {}).items()
             for branch in both if branch in branches]
    main = [(branch, results[branch]) for branch in both if branch in results]
    return [section for section in (main, kinds, types) if section]


def _cells(effect: Mapping[str, Any]) -> tuple[str, str, str, str, Text]:
    low, high = effect["ci95"]
    word, style = ("gain", "bold green") if low > 0 else ("loss", "bold red") if high < 0 else ("includes 0", "dim")
    return (f"{effect['before']:.1%}", f"{effect['after']:.1%}", f"{100 * effect['diff']:+.1f}",
            f"[{100 * low:+.1f}, {100 * high:+.1f}]", Text(word, style))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
