"""A job that runs inside another program, such as a trial of a sweep: who hears its metrics and may ask it to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from squall.platform.tracking import Sink


@dataclass(frozen=True)
class Host:
    """What a host gives to the job that it runs."""

    sinks: Sequence[Sink] = ()
    """Also get the metrics of every step."""
    settled: Callable[[], None] = lambda: None
    """Called after a step or an evaluation, once all of it is recorded and a checkpoint that was due is written. A host that
    waits here holds the job back."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Once set, the job writes a checkpoint and ends as after a Ctrl-C."""


_current: ContextVar[Host | None] = ContextVar("host", default=None)


def current_host() -> Host:
    """The host of the job that this thread runs; one that hears nothing and asks nothing where there is none."""
    return _current.get() or Host()


@contextmanager
def hosted(host: Host) -> Iterator[None]:
    """Jobs that this thread runs inside the block have this host."""
    token = _current.set(host)
    try:
        yield
    finally:
        _current.reset(token)
