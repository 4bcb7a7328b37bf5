"""What commands print in the same way: plain lines, counts, what is being waited for, and the table of a checker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from squall.algorithms.checking import CheckResult

MARKS = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "note": ("·", "yellow")}
NEEDED = ("found", "called")
"""Checks without which the others cannot be tried."""
TABLE_WIDTH = 160
"""Letters that a table of figures may take in a line."""


def say(console: Console, line: str) -> None:
    """A line as it is, however wide the terminal."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def say_table(console: Console, table: Table) -> None:
    """A table as wide as its figures need, however narrow the terminal: a figure that is cut off misleads."""
    wide = Console(width=TABLE_WIDTH)
    with wide.capture() as text:
        wide.print(table)
    for line in text.get().splitlines():
        say(console, line.rstrip())


def counted(number: int, noun: str) -> str:
    """``1 clip``, ``2,000 clips``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def phase(console: Console, text: str, name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Show what is being waited for: a moving line with a clock on a terminal, a plain line elsewhere.

    `seconds` receives, under `name`, how long it took.
    """
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(text, total=None)
        if not console.is_terminal:
            say(console, text)
        yield
    seconds[name] = time.monotonic() - started


def print_checks(name: str, results: Sequence[CheckResult], console: Console) -> int:
    """Print a line for each property that was checked. Returns 0 when none failed, else 1."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for result in results:
        mark, style = MARKS[result.status]
        table.add_row(result.name, Text(mark, style), Text(result.message))
    console.print(table)
    failed = sum(result.status == "failed" for result in results)
    verdict = f"{failed} of {len(results)} checks failed" if failed else "can be used: no check failed"
    if results[-1].status == "failed" and results[-1].name in NEEDED:
        verdict += "; the others could not be tried"
    say(console, f"{name}: {verdict}")
    return 1 if failed else 0
