"""What is stored of attacks comes back to the last digit, and a file that is none is refused."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attack_tasks import Kept
from squall.platform.errors import DataError, SquallError

ROW = {"attack": "pair", "clip": 3, "p_clean": 0.1 + 0.2, "fooled": True, "trace_p": [float(np.float32(0.1)), 5e-324]}
KEPT = Kept(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8), np.arange(4, dtype=np.int8).reshape(1, 2, 2))


def test_rows_clips_and_classes_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "attacks.sqlite"
    child = os.fork()
    if not child:  # stores, and dies without closing
        store = AttackStore(path)
        store.put("a", ROW, KEPT)
        store.put("b", ROW | {"clip": 4}, Kept(KEPT.adversarial, None))
        store.put("c", ROW | {"clip": 5})
        store.put_clean([("x", 3), ("y", 0)])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with closing(AttackStore(path)) as store:
        assert store.rows() == {"a": ROW, "b": ROW | {"clip": 4}, "c": ROW | {"clip": 5}}
        assert store.clean() == {"x": 3, "y": 0} and store.kept_keys() == {"a", "b"}
        kept = store.kept("a", (2, 4, 4, 3), (1, 2, 2))
        assert np.array_equal(kept.adversarial, KEPT.adversarial) and np.array_equal(kept.occupancy, KEPT.occupancy)
        assert store.kept("b", (2, 4, 4, 3), (1, 2, 2)).occupancy is None
        store.drop_kept("a")
        assert store.kept_keys() == {"b"} and store.rows()["a"] == ROW


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    other, text, folder = tmp_path / "other.sqlite", tmp_path / "text", tmp_path / "folder"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE calls (key TEXT)")
        connection.commit()
    text.write_text("no database at all, but long enough to look like one" * 40)
    for path in (other, text):
        before = path.read_bytes()
        with pytest.raises(DataError, match=f"{path}: damaged, or no store of attacks .*; move it away") as refused:
            AttackStore(path)
        assert refused.value.reason == "damaged_store" and path.read_bytes() == before
    folder.mkdir()
    with pytest.raises(SquallError, match="cannot be used .*; see that its folder can be written to"):
        AttackStore(folder)
