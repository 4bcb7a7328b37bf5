"""Container limits are read from cgroup files, version 2 and version 1."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from squall.platform.machine import cgroup_cpus, cgroup_memory, inspect_machine


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(("files", "cpus"), [
    ({"cpu.max": "150000 100000"}, 1.5),
    ({"cpu.max": "max 100000"}, math.inf),
    ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ({}, math.inf),
])
def test_cpu_quota(tmp_path: Path, files: dict[str, str], cpus: float) -> None:
    assert cgroup_cpus(write(tmp_path, files)) == cpus


@pytest.mark.parametrize(("files", "expected"), [
    ({"memory.max": "1000", "memory.current": "300"}, (1000, 300)),
    ({"memory.max": "max", "memory.current": "300"}, None),
    ({"memory/memory.limit_in_bytes": "2000", "memory/memory.usage_in_bytes": "5"}, (2000, 5)),
    ({}, None),
])
def test_memory_limit(tmp_path: Path, files: dict[str, str], expected: tuple[int, int] | None) -> None:
    assert cgroup_memory(write(tmp_path, files)) == expected


def test_this_machine(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path / "not" / "made" / "yet")
    assert 0 < machine.cpus <= len(os.sched_getaffinity(0))
    assert 0 < machine.memory_available <= machine.memory
    assert machine.disk_free > 0
