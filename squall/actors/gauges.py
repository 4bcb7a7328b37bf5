"""Live figures of a run on Ray's metrics endpoint, which the Ray dashboard and Prometheus read.

What is current is a gauge and goes when the driver ends; what adds up is a counter and stays (Ray exports it as `..._total`).
Every series has the label `run`. Names here get the prefix `ray_` from Ray. What is stuck shows by the age of a timestamp
(seconds since the epoch), which needs no history: ``time() - ray_squall_last_commit_timestamp_seconds``.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray.util import metrics as ray_metrics

from squall.actors.health import WorkerState


@dataclass(frozen=True, slots=True)
class Series:
    """How metrics called ``family/member`` are exported: one series, the member as a label."""

    name: str
    label: str
    description: str


GAUGES: Mapping[str, Series] = {
    "time": Series("squall_phase_seconds", "phase", "Seconds of a phase in the last step"),
    "idle": Series("squall_idle_ratio", "role", "Share of the last step in which the trainer or the engines waited"),
    "busy": Series("squall_busy_ratio", "role", "Share of the last step in which workers of a role were at work"),
    "accuracy": Series("squall_accuracy", "branch", "Share of right answers in the last step"),
    "gap": Series("squall_gap", "kind", "Clean minus corrupted accuracy in the last step, by corruption"),
    "heldout": Series("squall_heldout_accuracy", "branch", "Share of right answers to held-out questions"),
    "corruption_ms": Series("squall_corruption_milliseconds", "kind", "Mean time to corrupt a clip in the last step"),
    "reward": Series("squall_reward", "statistic", "Reward of an answer in the last step"),
    "staleness": Series("squall_staleness_updates", "statistic", "Updates between sampling an answer and learning from it"),
    "groups": Series("squall_groups", "fate", "Groups sampled and trained on in the last step"),
    "mismatch": Series("squall_mismatch", "statistic", "Engine against learner on the same tokens in the last step, nats"),
}
COUNTERS: Mapping[str, Series] = {
    "dropped": Series("squall_dropped_groups", "reason", "Groups sampled and not trained on"),
    "retried": Series("squall_retried_groups", "reason", "Groups sampled again because a worker failed"),
}
REPEAT_S = 5.0
COMMITTED = "groups/trained"
"""Metric whose value above 0 is progress: that many groups became part of the policy."""


def resident_bytes() -> float:
    """Memory that this process holds, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


class RayGauges:
    """The `GaugeSink` of a run; also which phase it is in and the state of each worker, as gauges of which one is 1."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._series: dict[str, ray_metrics.Metric] = {}
        self._shown: dict[tuple[str, ...], tuple[ray_metrics.Gauge, float, dict[str, str]]] = {}
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._phase: str | None = None
        self._states: dict[str, str] = {}
        self._thread = threading.Thread(target=self._repeat, name="gauges", daemon=True)
        self._thread.start()

    def set(self, name: str, value: float) -> None:
        """Show the latest value of a metric such as ``accuracy/corrupted``; one that counts is added to its total."""
        if name == COMMITTED and value > 0:
            self._metric(ray_metrics.Counter, "squall_committed_groups", "Groups trained on").inc(value, self._tags)
            self._stamp("squall_last_commit_timestamp_seconds", "When groups were last trained on")
        family, _, member = name.partition("/")
        if member and family in COUNTERS:
            series = COUNTERS[family]
            if value > 0:
                self._metric(ray_metrics.Counter, series.name, series.description, series.label).inc(
                    value, {**self._tags, series.label: member})
        elif member and family in GAUGES:
            series = GAUGES[family]
            self._show(series.name, series.description, value, **{series.label: member})
        else:
            self._show("squall_" + re.sub(r"\W", "_", name), f"Latest {name}", value)

    def close(self) -> None:
        """Show nothing any more; what was shown goes."""
        self._closed.set()
        self._thread.join()

    def phase(self, name: str) -> None:
        """Enter a phase."""
        for phase, value in ((self._phase, 0.0), (name, 1.0)):
            if phase is not None:
                self._show("squall_phase", "1 for the phase that the run is in", value, phase=phase)
        self._phase = name
        self._stamp("squall_phase_started_timestamp_seconds", "When the run entered the phase that it is in")

    def state(self, worker: str, state: str) -> None:
        """A worker, such as ``engine-0``, is in a state. A death is counted too: it may be over before anyone looks."""
        if state == WorkerState.DEAD:
            self._metric(ray_metrics.Counter, "squall_worker_deaths", "Workers found dead", "worker").inc(
                1, {**self._tags, "worker": worker})
        for known, value in ((self._states.get(worker), 0.0), (state, 1.0)):
            if known is not None:
                self._show("squall_worker_state", "1 for the state that a worker is in", value, worker=worker, state=known)
        self._states[worker] = state

    def _stamp(self, name: str, description: str) -> None:
        self._show(name, description, time.time())

    def _show(self, name: str, description: str, value: float, **labels: str) -> None:
        gauge, tags = self._metric(ray_metrics.Gauge, name, description, *labels), {**self._tags, **labels}
        with self._lock:
            self._shown[name, *labels.values()] = (gauge, value, tags)
            gauge.set(value, tags)

    def _metric(self, kind: type[ray_metrics.Metric], name: str, description: str, *labels: str) -> ray_metrics.Metric:
        with self._lock:
            if name not in self._series:
                self._series[name] = kind(name, description, tag_keys=("run", *labels))
            return self._series[name]

    def _repeat(self) -> None:
        """Ray forgets a gauge that is not set for 20 s: a run that is stuck would vanish just when its alarms are due."""
        while not self._closed.wait(REPEAT_S):
            self._show("squall_driver_memory_bytes", "What the driver holds in memory; Ray tells it of its workers alone",
                       resident_bytes())
            with self._lock:
                for gauge, value, tags in self._shown.values():
                    gauge.set(value, tags)
