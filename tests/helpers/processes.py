"""Commands in processes of their own, and the journals that they leave."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import ray

IMPORTED = ["squall.cli", "squall.jobs.annotate", "squall.jobs.attack_image", "squall.jobs.corrupt", "squall.jobs.evaluate",
            "squall.jobs.tgrpo", "squall.jobs.train_classifier", "squall.jobs.train_tats", "torch",
            "transformers.models.auto.processing_auto", "transformers.models.auto.modeling_auto"]
"""What commands import. It takes seconds, so one process does it, and each command begins as a fork of that one."""


def rows(path: Path) -> list[dict]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Command:
    """`squall WORDS`, begun in a folder, on the cluster of this process. It ends with the test that began it."""

    begun: ClassVar[list[Command]] = []
    """By the present test."""

    def __init__(self, folder: Path, *words: object) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="squall-")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        self._process = context.Process(target=_run, daemon=True, args=(
            str(folder), [str(word) for word in words], self._log.name, environment))
        self._process.start()
        self.begun.append(self)

    @classmethod
    def end_all(cls) -> None:
        """Kill what a test that failed has left: it would take CPUs from those after it."""
        while cls.begun:
            process = cls.begun.pop()._process
            process.kill()
            process.join(60)

    @property
    def printed(self) -> str:
        """All that it has written so far."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.exitcode

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Its exit status when it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it goes on after {timeout} s:\n{self.printed}"
        return self._process.exitcode

    def stop_after(self, journal: Path, lines: int, number: signal.Signals) -> int:
        """Send a signal when the journal has so many lines; returns its exit status."""
        deadline = time.monotonic() + 240
        while self.poll() is None and time.monotonic() < deadline and (not journal.exists() or len(rows(journal)) < lines):
            time.sleep(0.05)
        self.signal(number)
        return self.wait(120)


def _run(folder: str, words: list[str], log: str, environment: Mapping[str, str]) -> None:
    from squall.cli import main

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = ["squall", *words]
    try:
        main(words)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # which a process that is forked so would leave out
