"""Loads of a machine are staggered, also when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LOAD = """
import sys, time
from pathlib import Path
from squall.actors.load_slots import load_slot
with load_slot(2):
    Path(sys.argv[1]).write_text(str(time.time()))
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1] + ".end").write_text(str(time.time()))
"""


def load(folder: Path, name: str, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LOAD, str(folder / name), str(seconds)],
                            env=os.environ | {"TMPDIR": str(folder)})


def test_two_load_at_once_and_the_place_of_a_killed_one_is_free(tmp_path: Path) -> None:
    hung = load(tmp_path, "hung", 600)
    while not (tmp_path / "hung").exists():
        time.sleep(0.01)
    others = [load(tmp_path, f"n{number}", 0.2) for number in range(3)]
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("n*.end")) and time.monotonic() < deadline:
        time.sleep(0.01)
    hung.send_signal(signal.SIGKILL)
    assert [process.wait(timeout=60) for process in (hung, *others)] == [-signal.SIGKILL, 0, 0, 0]
    times = sorted((float((tmp_path / f"n{n}").read_text()), float((tmp_path / f"n{n}.end").read_text())) for n in range(3))
    assert times[1][0] >= times[0][1], "beside the one that hangs there was one place"
