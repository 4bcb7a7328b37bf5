"""What the checkers of users' functions share: a result for each property, and a new process to compare with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from squall.platform.errors import SquallError

Status = Literal["passed", "failed", "note"]
FRESH_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One property of what is checked."""

    name: str
    status: Status
    message: str
    """What was found; for a failure what was expected and what to do."""


class Failed(Exception):
    """A property does not hold; the text says what was expected, what came, and what to do."""


class Noted(Exception):
    """Nothing is wrong, yet the user should know."""


def try_check(title: str, check: Callable[[], str]) -> CheckResult:
    """Run a check, which returns what it found or raises `Noted`, `Failed` or whatever the user's code raises."""
    try:
        return CheckResult(title, "passed", check())
    except Noted as note:
        return CheckResult(title, "note", str(note))
    except (Failed, SquallError) as problem:
        return CheckResult(title, "failed", one_line(problem))
    except Exception as error:
        return CheckResult(title, "failed", f"{type(error).__name__}: {one_line(error)}")


def fresh_fingerprint(module: str, name: str) -> str:
    """What ``module.fingerprint(name)`` is in a new Python process with other hashes, which imports all anew.

    Raises:
        Failed: it fails there, or takes too long.
    """
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    code = f"import sys; from {module} import fingerprint; print(fingerprint(sys.argv[1]))"
    try:
        done = subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True,
                              timeout=FRESH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"gave no result in a new process within {FRESH_TIMEOUT_S:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failed(f"fails in a new process: {last}. Workers import it anew; it must not need what only this process set up")
    return (done.stdout.strip().splitlines() or [""])[-1]  # above it stands whatever the user's module prints


def best_ms(call: Callable[[], object], times: int) -> float:
    """Least milliseconds of so many calls."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return 1000 * best


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
