"""Workers that are given several tasks at the same time, and tasks that are tried again although nobody died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import ray

from squall.actors.supervisor import Worker
from squall.actors.task_pool import Failed, TaskPool
from squall.platform.errors import ConfigError, SquallError

pytestmark = pytest.mark.cluster


@ray.remote(num_cpus=0, max_concurrency=4)
class Meeting:
    """Tasks that wait for each other, or fail so many times."""

    def __init__(self) -> None:
        self._barrier = Barrier(3, timeout=60)

    def ready(self) -> int:
        return os.getpid()

    def meet(self) -> str:
        self._barrier.wait()
        return "met"

    def fail(self, error: Exception, times: int, mark: Path) -> str:
        with mark.open("a") as file:
            file.write(".")
        if mark.stat().st_size <= times:
            raise error
        return "done"


class Pool(TaskPool):
    role = "meeting"
    late = "meet earlier"
    unavailable = (ConnectionError,)

    def start(self) -> None:
        self._watch([Meeting.remote()])

    def _send(self, worker: Worker, task: tuple[str, Any]) -> Any:
        return getattr(worker.actor, task[0]).remote(*task[1:])


@pytest.fixture
def pool(ray_cluster: object) -> Iterator[Pool]:
    made = Pool(timeout_s=60, max_attempts=2, startup_timeout_s=60, at_once=3)
    made.start()
    yield made
    made.stop()


def test_a_worker_is_given_several_tasks_and_what_nobody_is_to_blame_for_is_tried_again(pool: Pool, tmp_path: Path) -> None:
    assert dict(pool.run((number, ("meet",)) for number in range(6))) == dict.fromkeys(range(6), "met")
    away = ConnectionError("the victim is away")
    found = dict(pool.run((times, ("fail", away, times, tmp_path / str(times))) for times in (0, 1, 2)))
    assert found == {0: "done", 1: "done", 2: Failed("infrastructure", "2 attempts failed: the victim is away")}
    assert pool.retries == {"unavailable": 2} and pool.take_changes() == []
    with pytest.raises(SquallError, match="a key that does not fit"):
        list(pool.run([(0, ("fail", ConfigError("a key that does not fit"), 9, tmp_path / "config"))]))
