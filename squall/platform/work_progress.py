"""How far a job is that works through many things of unequal size: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from squall.platform.progress import clock

INTERVAL_S = 5.0


class WorkProgress:
    """Context manager. Time left follows from the share of the total weight that is done since the start."""

    def __init__(self, what: str, total: int, total_weight: float, *, console: Console, interval_s: float = INTERVAL_S) -> None:
        """`what` is the plural of the things; weights are in any unit, such as bytes."""
        self._what, self._total, self._weight = what, total, max(total_weight, 1e-9)
        self._console, self._interval_s = console, interval_s
        self._done, self._done_weight, self._counts = 0, 0.0, {}
        self._running: dict[int, float] = {}
        self._finished: set[int] = set()
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[state]}"), expand=True)
        self._task = self._bar.add_task(what, total=total, state="")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> WorkProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def advance(self, key: int, weight: float, **counts: float) -> None:
        """One more is done; `counts` are added up and shown beside it."""
        self._finished.add(key)
        self._running.pop(key, None)
        self._done, self._done_weight = self._done + 1, self._done_weight + weight
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0) + value
        self._line()

    def running(self, key: int, weight: float) -> None:
        """So much of one is done. May come from another thread, and late."""
        if key not in self._finished:
            self._running[key] = weight
        self._line()

    def _line(self) -> None:
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= self._interval_s and self._done < self._total:
            self._last_line = now
            self._print(f"{self._done:,} of {self._total:,} {self._what}, {self._state()}")

    def _share(self) -> float:
        return min((self._done_weight + sum(list(self._running.values()))) / self._weight, 1.0)

    def note(self, text: str) -> None:
        """One line that stays."""
        if self._console.is_terminal:
            self._console.print(Text(text), soft_wrap=True)
        else:
            self._print(text)

    def _state(self) -> str:
        elapsed = time.monotonic() - self._started
        parts = [f"{value:,.0f} {name}" for name, value in self._counts.items() if value]
        parts.append(f"elapsed {clock(elapsed)}")
        if share := self._share():
            parts.append(f"left {clock(elapsed * (1 / share - 1))}")
        return ", ".join(parts)

    def _render(self) -> Progress:
        state = f"{self._done:,} of {self._total:,}, {self._state()}"
        self._bar.update(self._task, completed=self._total * self._share(), state=state)
        return self._bar

    def _print(self, line: str) -> None:
        self._console.file.write(line + "\n")  # not through rich: it would wrap the line at 80 columns
        self._console.file.flush()
