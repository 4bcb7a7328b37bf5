"""Passes and their two counts, without a cluster: what is entered twice, answered twice, lost, or left by the dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from noting_victim import BAD, CLASSES, NotingClassifier, NotingSource, plain_clips

from squall.actors.query_ledger import Call, QueryLedger
from squall.actors.victim_config import AskingConfig, VictimPoolConfig
from squall.actors.victim_core import PROBE, read_row, write_row
from squall.actors.victim_ledger import LOST, Pass, PassCounter, Tally, VictimLedger
from squall.actors.victim_local import LocalPool
from squall.platform.errors import DataError

DIES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from noting_victim import NotingClassifier, NotingSource, plain_clips
from squall.actors.victim_config import VictimPoolConfig
from squall.actors.victim_local import LocalPool
folder = Path(sys.argv[1])
pool = LocalPool(VictimPoolConfig(), NotingSource(folder), folder / "ledger.sqlite")
pool.start()
pool.client("attack").ask(plain_clips(1, 2))
NotingClassifier.probabilities = lambda self, clips: os.kill(os.getpid(), 9)
pool.client("attack").ask(plain_clips(3, 4, 5))
"""


def entered(number: int, key: str, responder: str = "v-1", attempts: int = 1, reply: str = "[1.0]") -> Pass:
    return Pass(number, Call(key, responder, "attack", reply, attempts))


def books(folder: Path, **begun: int) -> VictimLedger:
    for responder, count in begun.items():
        PassCounter(folder / "passes" / f"{responder.replace('_', '-')}.count").add(count)
    return VictimLedger(folder / "ledger.sqlite", folder / "passes")


def test_what_is_entered_twice_counts_once_and_what_is_answered_twice_counts_as_lost(tmp_path: Path) -> None:
    ledger = books(tmp_path, v_1=3, v_2=1)
    for _ in range(2):
        ledger.enter([entered(0, "r/0"), entered(1, "r/1", reply="")])
    ledger.enter([entered(2, "r/1", attempts=2)])
    ledger.enter([entered(0, "r/0", "v-2", attempts=2, reply="[0.5]")])  # the first one was alive after all
    assert ledger.find(["r/0", "r/1", "r/2"]) == {"r/0": "[1.0]", "r/1": "[1.0]"}
    assert ledger.tally(["attack"]) == Tally(4, 4, 2, {"attack": 2})


def test_what_the_dead_counted_and_did_not_enter_is_lost_once_and_may_not_come_in_late(tmp_path: Path) -> None:
    ledger = books(tmp_path, v_1=5, v_2=1)
    ledger.enter([entered(0, "r/0"), entered(1, "r/1")])
    ledger.enter([entered(0, "r/2", "v-2")])
    assert ledger.tally() == Tally(6, 3, 0, {})
    for _ in range(2):
        ledger.settle()
    ledger.enter([entered(2, "r/3")])
    assert ledger.tally(["attack"]) == Tally(6, 6, 3, {"attack": 3})
    assert QueryLedger(tmp_path / "ledger.sqlite").total(LOST).queries == 3 and ledger.find(["r/3"]) == {}
    (tmp_path / "passes" / "v-1.count").write_text("7\n")  # it was not dead yet
    ledger.enter([entered(5, "r/4")])
    assert ledger.tally(["attack"]) == Tally(8, 6, 3, {"attack": 3})
    ledger.settle()
    assert ledger.tally(["attack"]) == Tally(8, 8, 5, {"attack": 3})


def test_numbers_come_back_to_the_last_bit() -> None:
    row = np.random.default_rng(0).dirichlet(np.ones(50)).astype(np.float32)
    assert (read_row(write_row(row)) == row).all() and len(write_row(row)) < 50 * 16


def test_a_model_in_this_process_answers_and_is_counted_as_a_pool_is(tmp_path: Path) -> None:
    source = NotingSource(tmp_path)
    pool = LocalPool(VictimPoolConfig(label_only=False, asking=AskingConfig(max_batch=2)), source, tmp_path / "ledger.sqlite")
    pool.start()
    victim = pool.client("attack")
    clips = plain_clips(0, 51, 255)
    assert victim.ask(clips)[:, 1] == pytest.approx([0, 0.2, 1]) and victim.classes == CLASSES
    assert victim.ask(clips[:0]).shape == (0, 3)
    with pytest.raises(DataError, match="not finite"):
        victim.for_purpose("training").ask(plain_clips(1, BAD))
    pool.stop()
    assert pool.tally(["attack", "training"]) == Tally(6, 6, 2, {PROBE: 1, "attack": 3, "training": 0})
    assert source.passes == 6
    labels = LocalPool(VictimPoolConfig(label_only=True), source, tmp_path / "ledger.sqlite", name="labels")
    labels.start()
    assert labels.client("attack").ask(clips).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert labels.tally(["attack"]).purposes == {PROBE: 1, "attack": 3}  # its own, in the same ledger


def test_a_run_that_was_killed_in_a_pass_is_settled_by_the_next(tmp_path: Path) -> None:
    helpers = str(Path(__file__).parents[1] / "helpers")
    killed = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), helpers], timeout=120)
    assert killed.returncode == -9
    pool = LocalPool(VictimPoolConfig(), NotingSource(tmp_path), tmp_path / "ledger.sqlite")
    assert pool.tally(["attack"]) == Tally(6, 3, 0, {PROBE: 1, "attack": 2})
    pool.start()
    assert pool.tally(["attack"]) == Tally(7, 7, 3, {PROBE: 2, "attack": 2})
    assert pool.client("attack").ask(plain_clips(9)) == pytest.approx(NotingClassifier(tmp_path).probabilities(plain_clips(9)))
