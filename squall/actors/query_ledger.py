"""Every call of a judge or a victim, counted once and replayable: one SQLite file, shared by a machine's threads and workers.

It is cache and ledger at once: a row is a reply and what it cost. A judge's row is one question; a victim's row is all that
an attack asked about one image, in so many forward and backward passes. Failures have no rows, and neither keys nor
passwords come near it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squall.platform.errors import DataError, SquallError

BUSY_TIMEOUT_S = 30.0
"""How long a process waits for another one's write."""
VERSION = 2
"""1 had no passes; a file of that version is migrated, each of its calls being one query."""
KEYS_AT_ONCE = 500
"""SQLite takes some thousand values in a statement."""

_COLUMNS = ("key", "responder", "purpose", "reply", "attempts", "seconds", "prompt_tokens", "reply_tokens", "queries",
            "gradients", "time")
_PASSES = ("queries INTEGER NOT NULL DEFAULT 1", "gradients INTEGER NOT NULL DEFAULT 0")
_SCHEMA = f"""CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, responder TEXT NOT NULL, purpose TEXT NOT NULL, reply TEXT NOT NULL, attempts INTEGER NOT NULL,
    seconds REAL NOT NULL, prompt_tokens INTEGER, reply_tokens INTEGER, {_PASSES[0]}, {_PASSES[1]}, time REAL NOT NULL)
    WITHOUT ROWID"""
_INSERT = (f"INSERT OR IGNORE INTO calls ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) RETURNING 1")
_CHOSEN = "purpose = IFNULL(?, purpose) AND responder = IFNULL(?, responder)"


@dataclass(frozen=True, slots=True)
class Call:
    """One question that was answered."""

    key: str
    """What `call_key` makes of the question."""
    responder: str
    """Who replied: model and address, without secrets."""
    purpose: str
    """Short snake_case word under which calls are counted, such as ``similarity``."""
    reply: str
    attempts: int = 1
    """Requests that it took, the last one included."""
    seconds: float = 0.0
    """Wall time of all its attempts."""
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    queries: int = 1
    """Forward passes of the responder that it stands for."""
    gradients: int = 0
    """Backward passes."""


@dataclass(frozen=True, slots=True)
class Total:
    """What some calls add up to."""

    calls: int
    queries: int
    gradients: int


def call_key(responder: str, question: Any, parameters: Any, clip_hash: str | None = None) -> str:
    """32 hex digits over who is asked, what, how and about which clip; `question` and `parameters` are plain JSON values."""
    text = json.dumps([responder, question, parameters, clip_hash], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class QueryLedger:
    """The calls in a file, which is made if missing; with None in memory, for one process."""

    def __init__(self, path: Path | None) -> None:
        """Opens the file.

        Raises:
            SquallError: the file or its folder cannot be made or opened.
            DataError: the file is damaged, or is not a ledger (reason ``damaged_ledger``).
        """
        self._path = path
        self._lock = threading.Lock()
        with self._errors():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None,
                                               check_same_thread=False)
            self._prepare()

    def find(self, key: str) -> Call | None:
        """The call of this key, if it was made."""
        row = self._execute(f"SELECT {', '.join(_COLUMNS[:-1])} FROM calls WHERE key = ?", (key,))
        return Call(*row[0]) if row else None

    def find_all(self, keys: Sequence[str]) -> dict[str, Call]:
        """Those of these calls that were made, by key."""
        found: dict[str, Call] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = tuple(keys[start:start + KEYS_AT_ONCE])
            rows = self._execute(f"SELECT {', '.join(_COLUMNS[:-1])} FROM calls WHERE key IN ({', '.join('?' * len(some))})",
                                 some)
            found.update((row[0], Call(*row)) for row in rows)
        return found

    def store(self, call: Call) -> bool:
        """Keep a call; False if its key is there already, which then stays as it is."""
        return bool(self._execute(_INSERT, _values(call)))

    def store_all(self, calls: Sequence[Call]) -> int:
        """Keep calls, all of them or, where the process dies meanwhile, none; returns how many were not there yet."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                new = sum(bool(self._connection.execute(_INSERT, _values(call)).fetchall()) for call in calls)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return new

    def count(self, purpose: str | None = None, responder: str | None = None) -> int:
        """Calls in the ledger, of one purpose or responder or of all."""
        return self.total(purpose, responder).calls

    def total(self, purpose: str | None = None, responder: str | None = None) -> Total:
        """Calls and the passes that they stand for, of one purpose or responder or of all."""
        (row,) = self._execute("SELECT COUNT(*), IFNULL(SUM(queries), 0), IFNULL(SUM(gradients), 0) FROM calls "
                               f"WHERE {_CHOSEN}", (purpose, responder))
        return Total(*row)

    def close(self) -> None:
        """Close the file; what is stored is stored already."""
        self._connection.close()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("BEGIN IMMEDIATE")  # of several processes one makes the table
        (version,), = self._connection.execute("PRAGMA user_version").fetchall()
        (tables,), = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
        if version not in (1, VERSION) and (version or tables):
            raise sqlite3.DatabaseError(f"it is another database, of version {version}")
        for column in _PASSES if version == 1 else ():
            self._connection.execute(f"ALTER TABLE calls ADD COLUMN {column}")
        self._connection.execute(_SCHEMA)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")
        self._connection.execute("COMMIT")

    def _execute(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock, self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SquallError(f"query ledger {self._path}: cannot be made ({error.strerror or error})") from None
        except sqlite3.OperationalError as error:
            raise SquallError(f"query ledger {self._path}: {error}; see that its folder can be written to and its disk has "
                              "room") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"query ledger {self._path}: damaged or not a ledger ({error}); move it away, and a new one is "
                            "made", reason="damaged_ledger") from None


def _values(call: Call) -> tuple[Any, ...]:
    return (*(getattr(call, name) for name in _COLUMNS[:-1]), time.time())
