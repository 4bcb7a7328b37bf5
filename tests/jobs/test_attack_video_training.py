"""What is told of a training, and how one is stopped."""

from __future__ import annotations

import signal
import threading

import pytest

from squall.jobs.attack_video_training import make_record, stops_well
from squall.platform.hosting import Host, hosted


def row(step: int, success: float | None, **counts: float) -> dict[str, float]:
    found = {f"attackers/{name}": counts.get(name, 0.0) for name in ("episodes", "infra_errors", "failures")}
    ended = {} if success is None else {"attackers/success": success, "attackers/queries_per_episode": 40.0 - step}
    return {"step": step, "seconds": 1.26, **found, **ended}


def test_a_record_adds_up_and_leaves_out_iterations_in_which_no_attack_ended() -> None:
    rows = [row(1, None, failures=2.0), row(2, 0.25, episodes=4.0, infra_errors=1.0), row(3, 0.5, episodes=6.0)]
    assert make_record("pair", 7, rows) == {
        "attack": "pair", "seed": 7, "iterations": 3, "episodes": 10, "infra_errors": 1, "failures": 2, "seconds": 3.8,
        "learning": [(2, 0.25, 38.0), (3, 0.5, 37.0)]}


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
