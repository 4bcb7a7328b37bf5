"""Trained attackers from and to their folder; this loads torch, and no RLlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squall.algorithms.video_attack.policy import AttackerPolicy, describe, rebuild, weights
from squall.platform.attacker_files import read_attackers, write_attackers
from squall.platform.errors import DataError

ABOUT = "about"


def save_attackers(policy: AttackerPolicy, folder: Path, about: Mapping[str, Any]) -> None:
    """Write a policy; `about` are plain JSON values that its user must know, such as the attack's configuration."""
    write_attackers(folder, {**describe(policy), ABOUT: dict(about)}, weights(policy))


def load_attacker(folder: Path) -> AttackerPolicy:
    """The policy of a folder.

    Raises:
        SquallError: there is none.
        DataError: it is damaged (reason ``damaged_attacker``).
    """
    description, tensors = read_attackers(folder)
    try:
        return rebuild(description, tensors)
    except DataError as error:
        raise DataError(f"{folder}: {error}", reason=error.reason) from None


def about_attacker(folder: Path) -> dict[str, Any]:
    """What `save_attackers` was told; raises as `load_attacker`."""
    return dict(read_attackers(folder)[0].get(ABOUT, {}))
