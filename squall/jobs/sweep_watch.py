"""What a sweep shows while it runs: a line for every result, rows for its page, a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.platform.errors import cause

Row = dict[str, Any]
"""A trial: name, run, values, value, step, state (finished, pruned, failed, running, waiting), error."""
STATES = {"RUNNING": "running", "PAUSED": "waiting", "PENDING": "waiting"}
"""Tune's words for trials that have not ended."""


class SweepWatch(tune.Callback):
    """Prints a line for every result, and at the end a table; hands out the rows whenever one changes."""

    def __init__(self, metric: str, mode: str, keys: Sequence[str], total_steps: int | None,
                 write: Callable[[list[Row]], None]) -> None:
        """`write` gets all rows, the best trial first."""
        self._metric, self._mode, self._keys, self._total_steps, self._write = metric, mode, tuple(keys), total_steps, write
        self._last: dict[str, tuple[float | None, float]] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or goes on."""
        self._print(trial, "starts with " + ", ".join(f"{key} {_short(trial.config.get(key))}" for key in self._keys))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """A trial has logged the metric."""
        if self._metric in result and self._last.get(str(trial)) != (seen := (result.get("step"), result[self._metric])):
            self._last[str(trial)] = seen  # the end of a trial brings its last result once more
            self._print(trial, f"step {result.get('step', 0):.0f}: {self._metric} {result[self._metric]:.4f}")
            self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or because others were better."""
        self._print(trial, "ended")
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed."""
        self._print(trial, "failed: " + _reason(trial))
        self._show(trials)

    def _print(self, trial: Any, text: str) -> None:
        print(f"{trial}: {text}", flush=True)

    def _show(self, trials: Sequence[Any]) -> None:
        self._write(self._sorted([self._row(str(trial), trial.config, trial.last_result or {}, _error(trial),
                                            STATES.get(trial.status)) for trial in trials]))

    def _sorted(self, rows: list[Row]) -> list[Row]:
        worst = float("-inf") if self._mode == "max" else float("inf")
        return sorted(rows, key=lambda row: row["value"] if row["value"] is not None else worst, reverse=self._mode == "max")

    def finish(self, results: tune.ResultGrid) -> list[Row]:
        """Print the table, the best trial first; returns its rows."""
        rows = self._sorted([self._row(Path(result.path).name, result.config, result.metrics or {}, result.error, None)
                             for result in results])
        self._write(rows)
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        for name in ("trial", self._metric, "step", "state", *short_names(self._keys)):
            table.add_column(name, no_wrap=name == "trial", justify="left" if name in ("trial", "state") else "right")
        for row in rows:
            value = "" if row["value"] is None else f"{row['value']:.4f}"
            chosen = [_short(row["values"].get(key)) for key in self._keys]
            table.add_row(row["name"], value, f"{row['step']:.0f}", row["state"], *chosen)
        Console().print(table)
        return rows

    def _row(self, name: str, config: Mapping[str, Any], metrics: Mapping[str, Any], error: BaseException | None,
             state: str | None) -> Row:
        step = metrics.get("step", 0)
        pruned = self._total_steps is not None and step < self._total_steps
        return {
            "name": metrics.get("trial", name), "run": metrics.get("run", name),
            "values": {key: config.get(key) for key in self._keys}, "value": metrics.get(self._metric), "step": step,
            "state": state or ("failed" if error else "pruned" if pruned else "finished"),
            "error": cause(error) if error else None,
        }


def short_names(keys: Sequence[str]) -> list[str]:
    """Dotted keys by their last part, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def _error(trial: Any) -> BaseException | None:
    return trial.get_error() if hasattr(trial, "get_error") else None


def _reason(trial: Any) -> str:
    """The last line of what a trial failed with."""
    error = _error(trial)
    return cause(error) if error is not None else "see its log"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
