"""What is said of workers: deaths, returns and long waits, and nothing of what every weight update asks."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import ray

from squall.actors import supervisor
from squall.actors.health import WorkerState
from squall.actors.supervisor import Supervisor
from squall.platform.errors import SquallError

pytestmark = pytest.mark.cluster


@ray.remote(num_cpus=0, max_restarts=-1)
class Slow:
    """Starts at once, and anew only when a file says so; not at all where another one does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        started = folder / "started"
        while started.exists() and not (folder / "go").exists():
            if (folder / "broken").exists():
                raise RuntimeError("the memory is still taken")
            time.sleep(0.05)
        started.touch()

    def ready(self) -> int:
        return os.getpid()

    def ping(self) -> int:
        return os.getpid()


def killed(folder: Path, told: list[str], timeout_s: float) -> Supervisor:
    """Watches over a worker that is being started anew."""
    watched = Supervisor(timeout_s, on_wait=told.append)
    watched.add("engine", [Slow.remote(folder)], "2 CPUs + 1 GPU")
    (worker,) = watched.workers
    os.kill(worker.process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while worker.state is not WorkerState.RESTARTING:
        assert time.monotonic() < deadline
        watched.suspect(worker, "")
        watched.tick()
        time.sleep(0.05)
    return watched


def test_it_says_once_what_is_waited_for_and_until_when(ray_cluster: object, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TELL_AFTER_S", 0.3)
    told: list[str] = []
    watched = killed(tmp_path, told, 60.0)
    assert told == []
    while not told:
        watched.tick()
    since, until = re.match(r"waiting for engine-0 since (\S+), until (\S+) at the longest \(engine.startup_timeout_s\): ",
                            told[0]).groups()
    assert since < until and "no engine worker is left meanwhile" in told[0]
    assert "it takes 2 CPUs + 1 GPU on one node, and" in told[0]
    (tmp_path / "go").touch()
    while watched.workers[0].state is WorkerState.RESTARTING:
        watched.tick()
    assert len(told) == 1 and watched.workers[0].state is WorkerState.STALE
    ray.kill(watched.workers[0].actor)


def test_the_last_one_that_does_not_come_back_ends_the_run_with_the_reason(ray_cluster: object, tmp_path: Path) -> None:
    watched = killed(tmp_path, [], 2.0)
    with pytest.raises(SquallError, match="engine-0, the last engine worker, did not come back within 2 s: Ray has no"):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            watched.tick()
    ray.kill(watched.workers[0].actor)


def test_one_that_cannot_be_started_anew_is_given_up_at_once_with_the_reason(ray_cluster: object, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    watched = killed(tmp_path, [], 600.0)
    with pytest.raises(SquallError, match="engine-0, the last engine worker, could not be started anew: .*still taken"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            watched.tick()


def test_nobody_waits_for_one_that_is_being_started_anew(ray_cluster: object, tmp_path: Path) -> None:
    watched = killed(tmp_path / "a", [], 600.0)
    (away,) = watched.workers
    assert watched.settle("engine") == []
    watched.add("engine", [Slow.remote(tmp_path / "b")])
    here = watched.workers[1]
    assert watched.settle("engine") == [here] and away.state is WorkerState.RESTARTING
    for worker in watched.workers:
        ray.kill(worker.actor)


def test_a_weight_update_is_no_news_and_a_death_is(ray_cluster: object, tmp_path: Path) -> None:
    heard: list[str] = []
    watched = Supervisor(120.0, lambda worker, state: heard.append(state))
    (tmp_path / "go").touch()
    watched.add("engine", [Slow.remote(tmp_path)])
    (worker,) = watched.workers
    watched.settle("engine")
    watched.synced(worker)
    assert worker.state is WorkerState.HEALTHY and heard == ["healthy"]
    watched.suspect(worker, "a call failed")
    watched.settle("engine")
    assert heard[1:] == ["suspect", "healthy"]
    os.kill(worker.process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    watched.settle("engine")
    while worker.state is WorkerState.RESTARTING and time.monotonic() < deadline:
        watched.tick()
    assert heard[3:] == ["dead", "restarting", "stale"]
    watched.synced(worker)
    assert heard[6:] == ["healthy"]
    ray.kill(worker.actor)


def test_healthy_workers_take_turns(ray_cluster: object, tmp_path: Path) -> None:
    watched, actors = Supervisor(120.0), [Slow.remote(tmp_path / str(number)) for number in range(3)]
    assert watched.choose("engine") is None
    watched.add("engine", actors)
    assert [watched.choose("engine").number for _ in range(4)] == [1, 2, 0, 1]
    watched.suspect(watched.workers[0], "a call failed")
    assert [watched.choose("engine").number for _ in range(3)] == [2, 1, 2]
    for worker in watched.workers:
        watched.suspect(worker, "a call failed")
    assert watched.choose("engine") is None and watched.choose("reward") is None
    for actor in actors:
        ray.kill(actor)


def test_a_worker_that_never_takes_weights_is_given_up(ray_cluster: object, tmp_path: Path) -> None:
    watched = Supervisor(60.0)
    watched.add("engine", [Slow.remote(tmp_path / "a"), Slow.remote(tmp_path / "b")])
    first, second = watched.workers
    for _ in range(supervisor.MOST_REFUSALS - 1):
        watched.refused(first, "disk full")
    watched.settle("engine")
    watched.synced(first)  # what came before does not count
    for worker in (first, second):
        for _ in range(supervisor.MOST_REFUSALS - 1):
            watched.refused(worker, "disk full")
    assert watched.of("engine") == [first, second]
    watched.refused(first, "disk full")
    assert watched.of("engine") == [second]
    assert watched.changes[-1].reason == "was lost 3 times in a row while it received weights: disk full"
    with pytest.raises(SquallError, match=r"engine-1, the last engine worker, was lost 3 times in a row while it received"):
        watched.refused(second, "disk full")
