"""Published weights: freed by hand, and freed after a learner that was killed before anyone could."""

from __future__ import annotations

import subprocess
import sys

import torch

from squall.actors.weight_transfer import publish_weights, remove_weights

PUBLISH = """
import torch
from squall.actors.weight_transfer import publish_weights
print(publish_weights({"w": torch.zeros(2)}, 7))
"""


def test_weights_of_a_learner_that_is_gone_are_freed_and_those_of_a_living_one_stay() -> None:
    done = subprocess.run([sys.executable, "-c", PUBLISH], capture_output=True, text=True, check=True)
    orphan = done.stdout.strip()
    first = publish_weights({"w": torch.zeros(2)}, 1)
    second = publish_weights({"w": torch.ones(2)}, 2)
    try:
        assert first.exists() and second.exists()
        assert first.stat().st_mode & 0o077 == 0
        assert not first.with_name(orphan.rpartition("/")[2]).exists()
    finally:
        remove_weights(first)
        remove_weights(second)
    assert not first.exists() and not second.exists()
