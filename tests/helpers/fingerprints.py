"""Fingerprints of several rewards at once, for a new process."""

from __future__ import annotations

from squall.algorithms import reward_check


def fingerprint(names: str) -> str:
    """Those of rewards whose names are parted by spaces."""
    return " ".join(map(reward_check.fingerprint, names.split()))
