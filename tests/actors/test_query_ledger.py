"""The ledger as files: shared, counted once, and clear about what is wrong with one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from squall.actors.query_ledger import VERSION, Call, QueryLedger, Total, call_key
from squall.platform.errors import DataError, SquallError

CALL = Call("k1", "m at http://host/v1", "similarity", "[1, 0.5] ü", 2, 0.25, 30, 7)
WRITER = """
import sys
from pathlib import Path
from squall.actors.query_ledger import Call, QueryLedger
ledger = QueryLedger(Path(sys.argv[1]))
print(sum(ledger.store(Call(f"key{i}", "m", "answerable", sys.argv[2])) for i in range(200)))
"""


def test_a_call_comes_back_as_it_was_and_the_first_reply_stays(tmp_path: Path) -> None:
    path = tmp_path / "made" / "ledger.sqlite"
    ledger = QueryLedger(path)
    unknown = replace(CALL, key="k2", purpose="answerable", prompt_tokens=None, reply_tokens=None)
    assert ledger.find("k1") is None
    assert [ledger.store(call) for call in (CALL, unknown, replace(CALL, reply="other"))] == [True, True, False]
    ledger.close()
    again = QueryLedger(path)
    assert (again.find("k1"), again.find("k2")) == (CALL, unknown)
    assert (again.count(), again.count("answerable"), again.count(responder="nobody")) == (2, 1, 0)


def test_a_key_depends_on_everything_that_the_reply_depends_on() -> None:
    keys = {call_key("m", [{"role": "user", "content": "q"}], {"temperature": 0.0, "max_tokens": 8}, "c"),
            call_key("n", [{"role": "user", "content": "q"}], {"temperature": 0.0, "max_tokens": 8}, "c"),
            call_key("m", [{"role": "user", "content": "q\ud800"}], {"temperature": 0.0, "max_tokens": 8}, "c"),
            call_key("m", [{"role": "user", "content": "q"}], {"temperature": 0.5, "max_tokens": 8}, "c"),
            call_key("m", [{"role": "user", "content": "q"}], {"temperature": 0.0, "max_tokens": 8}, None)}
    assert len(keys) == 5 and all(len(key) == 32 for key in keys)
    assert call_key("m", [{"content": "q", "role": "user"}], {"max_tokens": 8, "temperature": 0.0}, "c") in keys


def test_processes_that_start_together_share_a_file_and_count_each_key_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
               for name in ("one", "two", "three")]
    stored = [int(writer.communicate(timeout=120)[0]) for writer in writers]
    ledger = QueryLedger(path)
    assert sum(stored) == ledger.count() == 200
    replies = [ledger.find(f"key{i}").reply for i in range(200)]
    assert [replies.count(name) for name in ("one", "two", "three")] == stored


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path / "ledger.sqlite")
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda i: ledger.store(Call(f"key{i % 50}", "m", "similarity", "[1]")), range(400)))
    assert stored.count(True) == ledger.count() == 50


@pytest.mark.parametrize("content", [b"not a database at all, but a text " * 40, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"query ledger .*ledger.sqlite: damaged or not a ledger \(.*\); move it") as refused:
        QueryLedger(path)
    assert refused.value.reason == "damaged_ledger" and path.read_bytes() == content


def test_damage_in_the_middle_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = QueryLedger(path)
    for i in range(300):
        ledger.store(replace(CALL, key=f"key{i}", reply="x" * 200))
    ledger.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(content)
    damaged = QueryLedger(path)
    with pytest.raises(DataError, match="damaged or not a ledger"):
        [damaged.find(f"key{i}") for i in range(300)]


def test_passes_are_added_up_and_a_key_counts_once(tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path / "ledger.sqlite")
    calls = [Call(f"a{i}", f"m{i % 2}", "pgd", "{}", queries=21, gradients=20) for i in range(1200)]
    assert ledger.store_all(calls[:700]) == 700 and ledger.store_all(calls) == 500
    ledger.store(CALL)
    assert ledger.total("pgd") == Total(1200, 1200 * 21, 1200 * 20) and ledger.total("pgd", "m1") == Total(600, 12600, 12000)
    assert ledger.total() == Total(1201, 25201, 24000) and ledger.total("none") == Total(0, 0, 0)
    found = ledger.find_all([*(f"a{i}" for i in range(1100, 1300)), "k1"])
    assert found["a1150"] == calls[1150] and found["k1"] == CALL and len(found) == 101


def test_several_calls_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path / "ledger.sqlite")
    with pytest.raises(DataError, match="not supported"):
        ledger.store_all([CALL, replace(CALL, key="k2", reply=["text"])])
    assert ledger.count() == 0 and ledger.store_all([CALL]) == 1


def test_a_ledger_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    old = sqlite3.connect(path)
    old.execute("""CREATE TABLE calls (
        key TEXT PRIMARY KEY, responder TEXT NOT NULL, purpose TEXT NOT NULL, reply TEXT NOT NULL, attempts INTEGER NOT NULL,
        seconds REAL NOT NULL, prompt_tokens INTEGER, reply_tokens INTEGER, time REAL NOT NULL) WITHOUT ROWID""")
    old.execute("INSERT INTO calls VALUES ('k1', 'm at http://host/v1', 'similarity', '[1, 0.5] ü', 2, 0.25, 30, 7, 1.5)")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    QueryLedger(path).close()
    ledger = QueryLedger(path)
    assert ledger.find("k1") == CALL and ledger.store(replace(CALL, key="k2", queries=5, gradients=3))
    assert ledger.total() == Total(2, 6, 3)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchall() == [(VERSION,)]


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (title TEXT)")
    other.close()
    with pytest.raises(DataError, match="it is another database"):
        QueryLedger(path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SquallError, match="file/ledger.sqlite: cannot be made"):
        QueryLedger(tmp_path / "file" / "ledger.sqlite")
