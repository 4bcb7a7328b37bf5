"""What state a run is in, by the events and metrics that it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from squall.platform.config import read_yaml
from squall.platform.runs import RunDirectory, read_lines
from squall.platform.tracking import read_metrics

ENDS = ("finished", "stopped", "interrupted")
QUIET_S = 600.0
"""A run without a word for so long, and for three times its longest step, counts as dead."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """State of a run: ``finished``, ``stopped`` (by an error or by its user), ``running`` or ``silent``."""

    state: str
    sentence: str
    last_event: str = ""
    """What happened last, with its time; empty when nothing is known."""

    @property
    def finished(self) -> bool:
        return self.state == "finished"


FINISHED = RunStatus("finished", "Finished.")


def run_status(run: RunDirectory, now: datetime | None = None) -> RunStatus:
    """The state of a run directory at `now`, by default this moment. Runs that left no events count by results.json."""
    events, metrics = read_lines(run.events), read_metrics(run.metrics)
    total = (read_yaml(run.config) if run.config.exists() else {}).get("steps")
    done = max((row["step"] for row in metrics), default=0)
    reached = f"step {done} of {total}" if total else f"step {done}"
    last = events[-1] if events else None
    shown = "" if last is None else _describe(last)
    if last is not None and last["kind"] in ENDS:
        if last["kind"] == "finished":
            return RunStatus("finished", f"Finished after {reached}.", shown)
        if last["kind"] == "interrupted":
            return RunStatus("stopped", f"Stopped on request at {reached}; --resume goes on from there.", shown)
        return RunStatus("stopped", f"Stopped at {reached}: {last.get('error', 'no reason given')}", shown)
    times = [_time(row["time"]) for row in (*events, *metrics) if "time" in row]
    if not times:
        return RunStatus("silent", f"Stopped at {reached}, or not started yet: it has left no sign of life.", shown)
    latest = max(times)
    quiet = ((now or datetime.now(UTC)) - latest).total_seconds()
    seen = f"last sign of life {latest:%Y-%m-%d %H:%M:%S} UTC"
    if quiet <= max(QUIET_S, 3 * _longest_step(metrics)):
        return RunStatus("running", f"Running: {reached}, {seen}.", shown)
    return RunStatus("silent", f"Stopped at {reached} without a word: {seen}, {_age(quiet)} before this page was made.", shown)


def _longest_step(metrics: Sequence[Mapping[str, Any]]) -> float:
    times = ([value for name, value in row.items() if name.startswith("time/") and value] for row in metrics)
    return max(map(sum, times), default=0.0)


def _describe(event: Mapping[str, Any]) -> str:
    details = ", ".join(f"{name} {value}" for name, value in event.items()
                        if name not in ("time", "kind", "notes", "error") and not isinstance(value, (list, dict)))
    what = event["kind"].replace("_", " ") + (f" ({details})" if details else "")
    return f"{what}, {_time(event['time']):%Y-%m-%d %H:%M:%S} UTC"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _age(seconds: float) -> str:
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"
