"""A stop that is heard between two pieces of work: Ctrl-C, SIGTERM, or the host's wish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from squall.platform.hosting import Host, current_host


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or the host asked to stop, and what was done is kept."""


@dataclass
class StopFlag:
    """Whether to stop after what is under way. Other threads may look at it too."""

    asked: threading.Event = field(default_factory=threading.Event)
    host: Host = field(default_factory=current_host)

    def __bool__(self) -> bool:
        return self.asked.is_set() or self.host.stop.is_set()


@contextmanager
def stops_well(say: Callable[[str], None], what: str = "this iteration") -> Iterator[StopFlag]:
    """Inside the block the first Ctrl-C or SIGTERM sets the flag, the second stops at once; `what` ends before a stop."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: Any) -> None:
        if flag.asked.is_set():
            raise KeyboardInterrupt
        flag.asked.set()
        say(f"{signal.Signals(number).name}: stopping after {what}, with a checkpoint; once more to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
