"""`squall doctor`: what this machine and environment have, and what that means for a job.

Imports what the jobs will import, because a package that is installed may still not load. Starts neither Ray nor an
engine.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from pathlib import Path

from squall.platform import torchvision_hook
from squall.platform.config import Config
from squall.platform.machine import GIB, Machine, inspect_machine

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
DEMO_CPUS = 2
TRAINING_BYTES_PER_PARAMETER = 16
"""16-bit weights and gradients, float32 weights and two AdamW moments (Rajbhandari et al. 2020, section 3.1)."""
ENGINE_BYTES_PER_PARAMETER = 2
IMPORTS = (
    ("video decoding", "decord"),
    ("video encoding", "av"),
    ("pixels", "cv2"),
    ("torchvision", "torchvision"),
    ("models", "transformers"),
    ("learner", "deepspeed"),
    ("engine", "vllm.v1.engine.async_llm"),
    ("cluster", "ray.train.v2.api.config"),
)


class DoctorConfig(Config):
    """Where to look."""

    output: Path = Path("runs")
    """Folder that run directories would go into: its disk is checked."""


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    BLOCKS = "blocks"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    text: str


def run(config: DoctorConfig) -> int:
    """Print the findings and what follows from them. Returns 1 when something blocks every job, else 0."""
    machine = inspect_machine(config.output)
    if not machine.gpus:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed else probes for accelerators and warns
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: check_machine(machine), check_python, lambda: check_versions(CONSTRAINTS), check_torch_companions,
        check_imports, check_ray_start)
    findings = []
    for check in checks:
        for finding in check():
            print(f"{finding.level:<7} {finding.subject:<16} {finding.text}", flush=True)
            findings.append(finding)
    blocked = [finding.subject for finding in findings if finding.level is Level.BLOCKS]
    print("\nWhat that means:")
    for line in conclusions(machine, blocked):
        print(f"  {line}")
    return 1 if blocked else 0


def check_machine(machine: Machine) -> Iterator[Finding]:
    """CPUs, memory, disk, shared memory, GPUs."""
    few = machine.cpus < DEMO_CPUS
    yield Finding(Level.NOTE if few else Level.OK, "CPUs", f"{machine.cpus:g} usable of {machine.host_cpus}")
    yield _size("memory", machine.memory_available, 8, f"available of {machine.memory / GIB:.1f} GiB")
    yield _size("disk", machine.disk_free, 5, "free where runs go")
    yield _size("/dev/shm", machine.shared_memory, 2, "free; Ray's object store and weight updates live there")
    if not machine.gpus:
        yield Finding(Level.OK, "GPUs", "none that torch can use")
    for index, gpu in enumerate(machine.gpus):
        yield Finding(Level.OK, f"GPU {index}", f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB")


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    yield Finding(Level.OK, "Python", f"{sys.version.split()[0]}, {sys.prefix}")


def check_versions(constraints: Path) -> Iterator[Finding]:
    """Installed packages against the versions that were run together."""
    if not constraints.is_file():
        yield Finding(Level.NOTE, "versions", "not compared: constraints.txt is only in a checkout")
        return
    differing, same = [], 0
    for name, pinned in read_pins(constraints).items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version.partition("+")[0] == pinned:
            same += 1
        else:
            differing.append(f"{name} {version} (tried: {pinned})")
    text = f"{same} packages as in constraints.txt"
    if differing:
        yield Finding(Level.NOTE, "versions", f"{text}, {len(differing)} other: {', '.join(differing)}")
    else:
        yield Finding(Level.OK, "versions", text)


def read_pins(constraints: Path) -> dict[str, str]:
    """``name==version`` lines of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==", 1) for line in lines if "==" in line)


def check_torch_companions() -> Iterator[Finding]:
    """The two packages that break beside a CPU torch."""
    try:
        import torch
    except ImportError as error:
        yield Finding(Level.BLOCKS, "torch", f"{_one_line(error)}; run `make env`")
        return
    build = "CPU" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    yield Finding(Level.OK, "torch", f"{torch.__version__}, {build} build")
    site_packages = torchvision_hook.environment_site_packages()
    if not torchvision_hook.needed():
        yield Finding(Level.OK, "torchvision hook", "not needed: torchvision matches torch")
    elif torchvision_hook.installed(site_packages):
        yield Finding(Level.OK, "torchvision hook", "in place: torchvision is a CUDA build, torch is not")
    else:
        yield Finding(Level.NOTE, "torchvision hook", "needed, and missing or out of date; run "
                      "`python -m squall.platform.torchvision_hook`")
    if torch.version.cuda is None and _is_installed("torchaudio"):
        yield Finding(Level.BLOCKS, "torchaudio", "installed; it stops vLLM under a CPU torch; "
                      "run `python -m pip uninstall torchaudio`")


def check_imports() -> Iterator[Finding]:
    """Import what jobs import."""
    for subject, module in IMPORTS:
        try:
            import_module(module)
        except Exception as error:  # a broken package may raise anything; the finding carries it
            yield Finding(Level.BLOCKS, subject, f"{module} does not import: {_one_line(error)}")
        else:
            yield Finding(Level.OK, subject, f"{module.partition('.')[0]} imports")


def check_ray_start() -> Iterator[Finding]:
    """Whether a local Ray could start: a socket on the loopback interface and a writable temporary folder."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Finding(Level.NOTE, "Ray", f"RAY_ADDRESS is set: jobs join the cluster at {address}")
        return
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    try:
        with socket.create_server(("127.0.0.1", 0)), tempfile.TemporaryFile(dir=folder):
            yield Finding(Level.OK, "Ray", f"can start here; session files go to {folder / 'ray'}")
    except OSError as error:
        yield Finding(Level.BLOCKS, "Ray", f"cannot start: {_one_line(error)}; it needs 127.0.0.1 and a writable "
                      f"{folder} (or RAY_TMPDIR)")


def conclusions(machine: Machine, blocked: list[str]) -> Iterator[str]:
    """What the findings mean for a job, one plain sentence each."""
    if blocked:
        yield f"No job runs before this is mended: {', '.join(blocked)}."
        return
    size = f"{machine.cpus:g} CPUs, {_count(len(machine.gpus), 'GPU')}"
    if machine.cpus < DEMO_CPUS:
        yield f"{size}: `squall demo` plans for {DEMO_CPUS} CPUs and refuses to start with fewer."
    else:
        yield f"{size}: `squall demo` runs."
    if not machine.gpus:
        yield "Models of billions of parameters need GPUs: `squall train tgrpo @tgrpo` plans for 8, so not here."
        return
    memory = sum(gpu.memory_bytes for gpu in machine.gpus)
    per_parameter = TRAINING_BYTES_PER_PARAMETER + ENGINE_BYTES_PER_PARAMETER
    yield (f"{memory / GIB:.0f} GiB of GPU memory hold at most {memory / per_parameter / 1e9:.1f} billion parameters "
           f"in full training, by arithmetic: {per_parameter} bytes each over learner and engine, before activations "
           "and KV cache.")
    yield "GPUs are planned by engine.count, engine.gpus, learner.workers and learner.gpus; @tgrpo plans for 8."


def _size(subject: str, value: int, wanted_gib: int, text: str) -> Finding:
    shown = f"{value / GIB:.1f} GiB {text}"
    if value < wanted_gib * GIB:
        return Finding(Level.NOTE, subject, f"{shown}; below {wanted_gib} GiB a job may run out")
    return Finding(Level.OK, subject, shown)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else f"no {noun}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
