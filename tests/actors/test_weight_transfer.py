"""Weight transfer: ranks, dead engines, and shared memory freed after a learner that was killed before it could."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray
import torch

from squall.actors.weight_transfer import EngineFleet, write_weights

PUBLISH = """
import torch
from squall.actors.weight_transfer import write_weights
print(write_weights({"w": torch.zeros(2)}, 7))
"""


def test_weights_of_a_learner_that_is_gone_are_freed_and_those_of_a_living_one_stay() -> None:
    done = subprocess.run([sys.executable, "-c", PUBLISH], capture_output=True, text=True, check=True)
    orphan = done.stdout.strip()
    first = write_weights({"w": torch.zeros(2)}, 1)
    second = write_weights({"w": torch.ones(2)}, 2)
    try:
        assert first.exists() and second.exists()
        assert first.stat().st_mode & 0o077 == 0
        assert not first.with_name(orphan.rpartition("/")[2]).exists()
    finally:
        first.unlink()
        second.unlink()


@ray.remote(num_cpus=0)
class Endpoint:
    """Keeps what an engine would be told."""

    def __init__(self) -> None:
        self.told: list[dict] = []

    def connect(self, init_info: dict) -> None:
        self.told.append(init_info)

    def what(self) -> list[dict]:
        return self.told


@pytest.mark.cluster
def test_engines_of_a_process_group_take_consecutive_ranks_after_the_sender(ray_cluster: object) -> None:
    endpoints = [Endpoint.remote() for _ in range(3)]
    fleet = EngineFleet(endpoints, ranks_per_engine=2, vision_changed=False, timeout_s=30)
    assert fleet.ranks == 6
    fleet.init_weight_transfer_engine({"rank_offset": 1})
    fleet.aim(2, [0, 2])  # the second was given up
    assert fleet.ranks == 4
    fleet.init_weight_transfer_engine({"rank_offset": 1})
    told = [[info["rank_offset"] for info in ray.get(endpoint.what.remote())] for endpoint in endpoints]
    assert told == [[1, 1], [3], [5, 3]]


@pytest.mark.cluster
def test_an_engine_that_died_is_noted_and_the_others_go_on(ray_cluster: object) -> None:
    dead, alive = Endpoint.remote(), Endpoint.remote()
    ray.kill(dead)
    fleet = EngineFleet([dead, alive], 1, vision_changed=False, timeout_s=30)
    fleet.init_weight_transfer_engine({})
    assert list(fleet.lost) == [0] and "connect: " in fleet.lost[0] and ray.get(alive.what.remote()) == [{}]
