"""Commands in processes of their own, and the journals that they leave."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path


def rows(path: Path) -> list[dict]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stop_after(process: subprocess.Popen[str], journal: Path, lines: int, number: signal.Signals) -> tuple[int, str]:
    """Send a signal when so many questions are answered; returns exit status and output."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and (not journal.exists() or len(rows(journal)) < lines):
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed
