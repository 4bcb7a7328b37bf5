"""Gauges: what the metrics endpoint of a real node serves."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from pathlib import Path

import psutil
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
            labels = ("phase", "branch", "reason", "worker", "state", "kind", "fate", "statistic")
            own = [named[key] for key in labels if key in named]
            found["/".join([name, *own])] = float(value)
    return found


@pytest.mark.cluster
def test_what_is_tracked_is_served_under_its_labels(ray_cluster: object, tmp_path: Path) -> None:
    gauges = RayGauges("gauge-test")
    tracker = Tracker([JsonlSink(tmp_path / "metrics.jsonl")], [gauges])
    tracker.log(1, {"accuracy/corrupted": 0.25, "gap/fog": 0.125, "dropped/zero_variance": 3, "tokens_per_s": 4.5})
    tracker.log(2, {"accuracy/corrupted": 0.75, "dropped/zero_variance": 2, "dropped/infrastructure": 0, "mismatch/kl": 0.5})
    gauges.phase("rollout")
    gauges.phase("learn")
    gauges.state("engine-0", "healthy")
    gauges.state("engine-0", "dead")
    tracker.log(3, {"groups/trained": 4})
    tracker.log(4, {"groups/trained": 3})
    tracker.log(5, {"groups/trained": 0})
    before = time.time()
    deadline = time.monotonic() + PATIENCE_S
    while len(found := series(endpoint(), "gauge-test")) < 15 and time.monotonic() < deadline:
        time.sleep(0.5)
    ages = [before - found.pop(f"squall_{event}_timestamp_seconds") for event in ("last_commit", "phase_started")]
    assert all(0 <= age < 10 for age in ages)
    resident = found.pop("squall_driver_memory_bytes")
    assert resident == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert found == {
        "squall_accuracy/corrupted": 0.75, "squall_gap/fog": 0.125, "squall_dropped_groups_total/zero_variance": 5.0,
        "squall_tokens_per_s": 4.5, "squall_phase/rollout": 0.0, "squall_phase/learn": 1.0,
        "squall_worker_state/engine-0/healthy": 0.0, "squall_worker_state/engine-0/dead": 1.0,
        "squall_worker_deaths_total/engine-0": 1.0, "squall_committed_groups_total": 7.0, "squall_groups/trained": 0.0,
        "squall_mismatch/kl": 0.5}

    time.sleep(25)  # Ray forgets gauges that are not set for 20 s
    assert series(endpoint(), "gauge-test")["squall_phase/learn"] == 1.0, "a run that is stuck must not vanish"
    tracker.close()
    assert not any(thread.name == "gauges" and thread.is_alive() for thread in threading.enumerate())
