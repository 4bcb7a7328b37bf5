"""What a run is doing this moment, for `squall top`: its phase and the state of its workers, in one small file."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


class LiveFile:
    """Replaced in one piece at every change; not synced to the disk, because after a crash nobody wants it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: dict[str, Any] = {"phase": "", "since": time.time(), "workers": {}}

    def phase(self, name: str) -> None:
        """The run enters a phase."""
        self._state |= {"phase": name, "since": time.time()}
        self._write()

    def state(self, worker: str, state: str) -> None:
        """A worker, such as ``engine-0``, is in a state."""
        self._state["workers"][worker] = state
        self._write()

    def _write(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):  # a run does not end because it cannot be watched
            temporary.write_text(json.dumps(self._state), encoding="utf-8")
            temporary.replace(self._path)


def read_live(path: Path) -> dict[str, Any]:
    """What the file of a run says: ``phase``, ``since`` (seconds since the epoch), ``workers``; nothing without one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
