"""What actors and Ray say goes into files of the run, one per role and number, and not between the lines of its progress."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import worker

from squall.platform.runs import utc_now


def keep_log(path: Path | None) -> None:
    """In an actor: append all that this process and its children print to a file too; None leaves it to Ray alone.

    The words go through a process of their own, so the last ones of an actor that is killed are kept as well. Ray's own logs,
    which the dashboard shows, stay complete; on a node that does not see the run's folder there are no others.
    """
    if path is None or not path.parent.parent.is_dir():
        return
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"--- process {os.getpid()}, {utc_now()}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in (1, 2):
        tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE, stdout=descriptor, stderr=subprocess.DEVNULL,
                               start_new_session=True)
        assert tee.stdin is not None
        os.dup2(tee.stdin.fileno(), descriptor)
        tee.stdin.close()


@contextmanager
def messages_of_ray(write: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, Ray's messages to this driver (a worker died, a node is short of memory) go to `write`.

    Ray prints them whatever `log_to_driver` says, and has no switch for it.
    """
    def take(batch: dict[str, Any], ignore_prefix: bool) -> None:
        for line in batch["lines"]:
            write(line)

    printer, worker.print_to_stdstream = worker.print_to_stdstream, take
    try:
        yield
    finally:
        worker.print_to_stdstream = printer
