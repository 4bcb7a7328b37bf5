"""How work is stopped between two pieces of it."""

from __future__ import annotations

import signal
import threading

import pytest

from squall.jobs.stopping import stops_well
from squall.platform.hosting import Host, hosted


def test_the_first_ctrl_c_asks_to_stop_and_the_second_stops() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stops_well(said.append) as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop and said == ["SIGINT: stopping after this iteration, with a checkpoint; once more to stop at once"]
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_host_asks_to_stop_too() -> None:
    asked = threading.Event()
    with hosted(Host(stop=asked)), stops_well(print) as stop:
        assert not stop
        asked.set()
        assert stop
