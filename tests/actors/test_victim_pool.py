"""Victims that are killed in the middle of a pass, and callers in the middle of a question: the counts agree to the clip."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import noting_victim
import numpy as np
import pytest
import ray
from noting_victim import BAD, HANGS, NotingClassifier, NotingSource, plain_clips

from squall.actors.query_ledger import QueryLedger
from squall.actors.victim_config import AskingConfig
from squall.actors.victim_core import PROBE
from squall.actors.victim_ledger import LOST, Tally
from squall.actors.victim_pool import VictimPool, VictimPoolConfig, VictimUnavailable
from squall.platform.errors import DataError

pytestmark = pytest.mark.cluster
ray.cloudpickle.register_pickle_by_value(noting_victim)  # workers cannot import what stands among the tests
Start = Callable[..., tuple[VictimPool, NotingSource]]


@pytest.fixture
def start(ray_cluster: object, tmp_path: Path) -> Iterator[Start]:
    """Starts a pool with a ledger in `tmp_path`."""
    pools = []

    def make(**values: object) -> tuple[VictimPool, NotingSource]:
        (tmp_path / "model").mkdir()
        source = NotingSource(tmp_path / "model")
        pools.append(VictimPool(VictimPoolConfig(cpus=0.5, **values), source, tmp_path / "ledger.sqlite", tmp_path.name))
        pools[-1].start()
        return pools[-1], source

    yield make
    for pool in pools:
        pool.stop()


@ray.remote(num_cpus=0, max_retries=0)
def asks_from_elsewhere(client: object, clips: np.ndarray) -> np.ndarray:
    return client.ask(clips)


def ledger_of(folder: Path) -> QueryLedger:
    return QueryLedger(folder / "ledger.sqlite")


def test_a_killed_victim_is_asked_again_and_every_pass_is_in_the_ledger_once(start: Start, tmp_path: Path) -> None:
    pool, source = start(asking=AskingConfig(max_batch=4))
    attack, training = pool.client("attack"), pickle.loads(pickle.dumps(pool.client("attack").for_purpose("training")))
    clips = plain_clips(HANGS, *range(20, 29))
    with ThreadPoolExecutor(3) as threads:
        asked = threads.submit(attack.ask, clips)
        victim = source.wait_inside()
        assert victim == pool.processes["victim-0"]
        caller = asks_from_elsewhere.remote(training, plain_clips(1, 2, 3))  # waits behind the pass that hangs
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        answer, elsewhere = asked.result(timeout=120), ray.get(caller, timeout=120)
    assert answer == pytest.approx(NotingClassifier(source.folder).probabilities(clips))
    assert elsewhere[:, 1] == pytest.approx(np.array([1, 2, 3]) / 255)
    own = source.passes - len(clips)  # the line above asked the model itself
    pool.stop()
    tally = pool.tally(["attack", "training"])
    assert tally == Tally(own, own, 4, {PROBE: 1, "attack": 10, "training": 3}) and tally.answered == 14
    stored = ledger_of(tmp_path)
    assert stored.total().queries == own == 18 and stored.total(LOST).queries == 4


def test_what_a_killed_caller_asked_is_counted_and_nobody_else_is_disturbed(start: Start, tmp_path: Path) -> None:
    pool, source = start(count=2, asking=AskingConfig(max_batch=2))

    @ray.remote(num_cpus=0, max_restarts=0)
    class Caller:
        def pid(self) -> int:
            return os.getpid()

        def ask_for_ever(self, client: object) -> None:
            while True:
                client.ask(plain_clips(1, 2, 3))

    caller = Caller.remote()
    process = ray.get(caller.pid.remote())
    lost = caller.ask_for_ever.remote(pool.client("training"))
    while pool.tally(["training"]).purposes["training"] < 9:
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(lost, timeout=60)
    os.kill(pool.processes["victim-ledger"], signal.SIGKILL)
    assert pool.client("attack").ask(plain_clips(255, 0))[:, 1] == pytest.approx([1.0, 0.0])
    pool.stop()
    tally = pool.tally(["attack", "training"])
    assert tally.begun == tally.entered == source.passes and tally.lost == 0
    assert tally.purposes["attack"] == 2 and tally.purposes[PROBE] == 2
    assert tally.purposes["training"] >= 9 and sum(tally.purposes.values()) == tally.answered
    shares = [ledger_of(tmp_path).total("attack", file.stem).queries for file in (tmp_path / "victim-passes").glob("*.count")]
    assert shares == [1, 1], "every process gets a part of a request"


def test_a_clip_that_a_model_fails_on_spoils_no_other_and_a_model_that_hangs_is_replaced(start: Start) -> None:
    pool, source = start(label_only=True, wait_ms=300, asking=AskingConfig(max_batch=3, pass_timeout_s=1.0))
    with ThreadPoolExecutor(2) as threads:
        bad = threads.submit(pool.client("bad").ask, plain_clips(BAD))
        good = threads.submit(pool.client("good").ask, plain_clips(200, 5))
        assert good.result(60).tolist() == [[0, 1, 0], [1, 0, 0]]
        with pytest.raises(DataError, match="1 of 1 clips got values that are not finite") as failed:
            bad.result(60)
    assert failed.value.reason == "bad_output"
    assert pool.client("slow").ask(plain_clips(HANGS)).tolist() == [[1, 0, 0]]
    tally = pool.tally(["bad", "good", "slow"])
    assert tally.purposes == {PROBE: 1, "bad": 0, "good": 2, "slow": 1}
    pool.stop()
    ended = pool.tally()
    assert ended.begun == ended.entered == source.passes == 9
    assert ended.lost == 5  # three in the batch, the bad clip alone, and the one that hung


def test_no_answer_in_time_is_an_error_and_no_probability(start: Start) -> None:
    pool, source = start(asking=AskingConfig(ask_timeout_s=1.0))
    with pytest.raises(VictimUnavailable, match="victim noting: no answer about 1 clips within 1 s and 1 attempt: it is still"):
        pool.client("attack").ask(plain_clips(HANGS))
    client = pool.client("attack")
    pool.stop()
    tally = pool.tally(["attack"])
    assert (tally.begun, tally.lost, tally.purposes["attack"]) == (source.passes, 1, 0)
    with pytest.raises(VictimUnavailable, match="none of its 1 processes is left|no answer about 1 clips"):
        client.ask(plain_clips(1))
