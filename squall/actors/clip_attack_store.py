"""Attacks on clips that are done, each stored as it ends: a run that is broken off goes on with the next.

One SQLite file, written by the driver alone. A row's key is a hash over all that the attack depends on.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from squall.actors.clip_attack_tasks import Kept, Row
from squall.platform.errors import DataError, SquallError

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attacks (key TEXT PRIMARY KEY, row TEXT NOT NULL, adversarial BLOB, occupancy BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clean (key TEXT PRIMARY KEY, class INTEGER NOT NULL) WITHOUT ROWID;
"""


class AttackStore:
    """The finished attacks in a file, which is made if missing."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            SquallError: the file or its folder cannot be made or written.
            DataError: the file is damaged, or is another database (reason ``damaged_store``).
        """
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path)
            (version,), = self._connection.execute("PRAGMA user_version").fetchall()
            (tables,), = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            if version != VERSION and (version or tables):
                raise sqlite3.DatabaseError(f"it is another database, of version {version}")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def rows(self) -> dict[str, Row]:
        """All that is done, by key."""
        with self._errors():
            return {key: json.loads(row) for key, row in self._connection.execute("SELECT key, row FROM attacks")}

    def put(self, key: str, row: Row, kept: Kept | None = None) -> None:
        """Store a finished attack, with the attacked clip if it is to be kept."""
        blobs = (None, None) if kept is None else (_pack(kept.adversarial), _pack(kept.occupancy))
        self._write("INSERT OR REPLACE INTO attacks VALUES (?, ?, ?, ?)", [(key, json.dumps(row), *blobs)])

    def kept_keys(self) -> set[str]:
        """Attacks whose clips are there."""
        with self._errors():
            return {key for key, in self._connection.execute("SELECT key FROM attacks WHERE adversarial IS NOT NULL")}

    def kept(self, key: str, shape: tuple[int, ...], grid: tuple[int, int, int]) -> Kept:
        """The attacked clip of an attack that has one, (T, H, W, 3), and its occupancy (blocks, rows, columns)."""
        with self._errors():
            (adversarial, occupancy), = self._connection.execute("SELECT adversarial, occupancy FROM attacks WHERE key = ?",
                                                                 (key,))
        return Kept(_unpack(adversarial, np.uint8, shape), None if occupancy is None else _unpack(occupancy, np.int8, grid))

    def drop_kept(self, key: str) -> None:
        """Forget the attacked clip, not the attack."""
        self._write("UPDATE attacks SET adversarial = NULL, occupancy = NULL WHERE key = ?", [(key,)])

    def clean(self) -> dict[str, int]:
        """Classes that other victims gave clean clips, by key."""
        with self._errors():
            return dict(self._connection.execute("SELECT key, class FROM clean").fetchall())

    def put_clean(self, classes: Sequence[tuple[str, int]]) -> None:
        """Store classes that another victim gave clean clips."""
        self._write("INSERT OR REPLACE INTO clean VALUES (?, ?)", classes)

    def close(self) -> None:
        """Close the file; what is stored is stored already."""
        self._connection.close()

    def _write(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        with self._errors(), self._connection:
            self._connection.executemany(statement, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise SquallError(f"{self._path}: cannot be used ({error}); see that its folder can be written to and its disk has "
                              "room") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._path}: damaged, or no store of attacks ({error}); move it away, and all clips are "
                            "attacked anew", reason="damaged_store") from None


def _pack(values: np.ndarray | None) -> bytes | None:
    return None if values is None else zlib.compress(np.ascontiguousarray(values), 1)


def _unpack(blob: bytes, kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(blob), kind).reshape(shape)
