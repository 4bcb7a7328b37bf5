"""What this machine has: CPUs, memory, disk, shared memory and GPUs, within the limits of its container."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Sizes in bytes."""

    cpus: float
    """CPUs that this process may use: the smaller of its affinity and its container's quota."""
    host_cpus: int
    memory: int
    """Total, within the container's limit."""
    memory_available: int
    disk_free: int
    shared_memory: int
    """Free space in /dev/shm; 0 where there is none."""
    gpus: tuple[Gpu, ...]


def inspect_machine(directory: Path) -> Machine:
    """Look at this machine. `disk_free` is that of the file system which holds `directory`, or would."""
    total, available = memory_bytes()
    return Machine(
        cpus=min(float(len(os.sched_getaffinity(0))), cgroup_cpus(CGROUP_ROOT)),
        host_cpus=os.cpu_count() or 1,
        memory=total,
        memory_available=available,
        disk_free=shutil.disk_usage(_existing(directory)).free,
        shared_memory=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0,
        gpus=find_gpus(),
    )


def cgroup_cpus(root: Path) -> float:
    """The container's CPU quota (cgroup v2, then v1); infinity without one."""
    quota, period = (_words(root / "cpu.max") + ["", ""])[:2]
    if not quota:
        quota, period = ((_words(root / "cpu" / f"cpu.cfs_{name}_us") or [""])[0] for name in ("quota", "period"))
    if not quota.isdigit() or not period.isdigit():  # "max", "-1" or no such file
        return math.inf
    return int(quota) / int(period)


def cgroup_memory(root: Path) -> tuple[int, int] | None:
    """The container's memory limit and use (cgroup v2, then v1), or None without a limit."""
    names = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit_name, use_name in names:
        limit, use = _words(root / limit_name), _words(root / use_name)
        if limit and use and limit[0].isdigit():
            return int(limit[0]), int(use[0])
    return None


def memory_bytes() -> tuple[int, int]:
    """Total and available memory, within the container's limit."""
    entries = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    host = {name: int(value.split()[0]) * 1024 for name, value in entries}
    total, available = host["MemTotal"], host["MemAvailable"]
    container = cgroup_memory(CGROUP_ROOT)
    if container is None:
        return total, available
    limit, use = container
    return min(total, limit), min(available, max(0, limit - use))


def find_gpus() -> tuple[Gpu, ...]:
    """The CUDA devices that torch sees; none when torch is not installed."""
    try:
        import torch
    except ImportError:
        return ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = (torch.cuda.get_device_properties(index) for index in range(count))
    return tuple(Gpu(device.name, device.total_memory) for device in devices)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.is_file() else []
