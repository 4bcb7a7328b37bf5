"""What a sweep shows while it runs, and what it leaves: results.json, best.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.platform.errors import cause
from squall.platform.runs import to_json, write_text


class SweepWatch(tune.Callback):
    """Prints a line for every result, and at the end a table; writes what the sweep found."""

    def __init__(self, folder: Path, metric: str, mode: str, keys: Sequence[str]) -> None:
        self._folder, self._metric, self._mode, self._keys = folder, metric, mode, tuple(keys)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or goes on."""
        self._print(trial, "starts with " + ", ".join(f"{key} {_short(trial.config.get(key))}" for key in self._keys))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """A trial has logged the metric."""
        if self._metric in result:
            self._print(trial, f"step {result.get('step', 0):.0f}: {self._metric} {result[self._metric]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or because others were better."""
        self._print(trial, "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed."""
        self._print(trial, "failed: " + _reason(trial))

    def _print(self, trial: Any, text: str) -> None:
        print(f"{trial}: {text}", flush=True)

    def finish(self, results: tune.ResultGrid, total_steps: int | None) -> list[dict[str, Any]]:
        """Write results.json and print the table, the best trial first; returns its rows."""
        rows = [self._row(result, total_steps) for result in results]
        worst = float("-inf") if self._mode == "max" else float("inf")
        rows.sort(key=lambda row: row["value"] if row["value"] is not None else worst, reverse=self._mode == "max")
        found = {"metric": self._metric, "mode": self._mode, "trials": rows}
        write_text(self._folder / "results.json", to_json(found, indent=2) + "\n")
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        for name in ("trial", self._metric, "step", "state", *self._keys):
            table.add_column(name, no_wrap=name == "trial", justify="left" if name in ("trial", "state") else "right")
        for row in rows:
            value = "" if row["value"] is None else f"{row['value']:.4f}"
            chosen = [_short(row["values"].get(key)) for key in self._keys]
            table.add_row(row["name"], value, f"{row['step']:.0f}", row["state"], *chosen)
        Console().print(table)
        return rows

    def _row(self, result: Any, total_steps: int | None) -> dict[str, Any]:
        metrics = result.metrics or {}
        step = metrics.get("step", 0)
        pruned = total_steps is not None and step < total_steps
        return {
            "name": metrics.get("trial") or Path(result.path).name, "run": metrics.get("run"),
            "values": {key: result.config.get(key) for key in self._keys}, "value": metrics.get(self._metric), "step": step,
            "state": "failed" if result.error else "pruned" if pruned else "finished",
            "error": cause(result.error) if result.error else None,
        }


def _reason(trial: Any) -> str:
    """The last line of what a trial failed with."""
    error = trial.get_error() if hasattr(trial, "get_error") else None
    return cause(error) if error is not None else "see its log"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
