"""At most so many engines of a machine read weights at the same time: more would only share its disk, and time out together.

Slots are locked files in the folder for temporary ones; the lock of a process that dies goes with it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.1


@contextmanager
def load_slot(count: int) -> Iterator[None]:
    """Wait for one of `count` slots of this machine and user, and hold it inside the block."""
    folder = Path(tempfile.gettempdir()) / f"squall-loads-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptors = [os.open(folder / f"slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for number in range(count)]
    try:
        while not any(map(_lock, descriptors)):
            time.sleep(LOOK_S)
        yield
    finally:
        for descriptor in descriptors:  # children that were forked meanwhile hold them too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
