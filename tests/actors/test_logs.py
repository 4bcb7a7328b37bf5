"""Logs of actors: the last words of a killed process are kept, and Ray's own log stays complete."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

DIES = """
import os, signal, subprocess, sys
from pathlib import Path
from squall.actors.logs import keep_log
keep_log(Path(sys.argv[1]))
print("a word of its own")
print("a warning", file=sys.stderr)
sys.stdout.flush()
subprocess.run(["echo", "a word of its child"])
os.write(2, b"last words")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_last_words_of_a_killed_process_are_in_both_logs(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine-0.log"
    for _ in range(2):  # a process that is started anew appends
        died = subprocess.run([sys.executable, "-c", DIES, str(log)], capture_output=True, text=True, timeout=60)
    assert died.returncode == -9
    end = time.monotonic() + 10
    while log.read_text().count("last words") < 2 and time.monotonic() < end:
        time.sleep(0.05)
    text = log.read_text()
    for words in ("--- process ", "a word of its own", "a warning", "a word of its child", "last words"):
        assert text.count(words) == 2, text
    assert died.stdout.split("\n")[:2] == ["a word of its own", "a word of its child"]
    assert died.stderr == "a warning\nlast words"
