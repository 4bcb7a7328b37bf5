"""Gauges: what the metrics endpoint of a real node serves."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from squall.actors.gauges import RayGauges
from squall.platform.tracking import JsonlSink, Tracker

PATIENCE_S = 60.0


def endpoint() -> str:
    """Text that this machine's node exports."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def series(text: str, run: str) -> dict[str, float]:
    """Value of every series of a run, its label in the name."""
    found = {}
    for name, labels, value in re.findall(r"^ray_(squall_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named.get("run") == run:
            own = [named[key] for key in ("phase", "branch", "reason", "worker", "state", "kind") if key in named]
            found["/".join([name, *own])] = float(value)
    return found


@pytest.mark.cluster
def test_what_is_tracked_is_served_under_its_labels(ray_cluster: object, tmp_path: Path) -> None:
    gauges = RayGauges("gauge-test")
    tracker = Tracker([JsonlSink(tmp_path / "metrics.jsonl")], [gauges])
    tracker.log(1, {"accuracy/corrupted": 0.25, "gap/fog": 0.125, "dropped/zero_variance": 3, "tokens_per_s": 4.5})
    tracker.log(2, {"accuracy/corrupted": 0.75, "dropped/zero_variance": 2, "dropped/infrastructure": 0})
    gauges.phase("rollout")
    gauges.phase("learn")
    gauges.state("engine-0", "healthy")
    gauges.state("engine-0", "dead")
    deadline = time.monotonic() + PATIENCE_S
    while len(found := series(endpoint(), "gauge-test")) < 8 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == {
        "squall_accuracy/corrupted": 0.75, "squall_gap/fog": 0.125, "squall_dropped_groups_total/zero_variance": 5.0,
        "squall_tokens_per_s": 4.5, "squall_phase/rollout": 0.0, "squall_phase/learn": 1.0,
        "squall_worker_state/engine-0/healthy": 0.0, "squall_worker_state/engine-0/dead": 1.0}
