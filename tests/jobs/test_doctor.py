"""`squall doctor`: findings, what follows from them, and the exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from squall.jobs import doctor
from squall.jobs.doctor import Level
from squall.platform.machine import GIB, Gpu, Machine


def machine(cpus: float = 2, gpus: tuple[Gpu, ...] = (), memory_gib: float = 16) -> Machine:
    size = int(memory_gib * GIB)
    return Machine(cpus, 8, size, size, 100 * GIB, 8 * GIB, gpus)


def test_a_laptop_runs_the_demo_and_not_8_gpu_training() -> None:
    lines = list(doctor.conclusions(machine(), []))
    assert lines[0] == "2 CPUs, no GPU: `squall demo` runs."
    assert "plans for 8, so not here" in lines[1]


def test_gpu_memory_becomes_a_number_of_parameters() -> None:
    lines = list(doctor.conclusions(machine(gpus=(Gpu("a", 90 * 10**9), Gpu("b", 90 * 10**9))), []))
    assert lines[0] == "2 CPUs, 2 GPUs: `squall demo` runs."
    assert "at most 10.0 billion parameters" in lines[1]


def test_too_few_cpus_and_blocked() -> None:
    assert "refuses to start" in next(doctor.conclusions(machine(cpus=1), []))
    assert list(doctor.conclusions(machine(), ["engine"])) == ["No job runs before this is mended: engine."]


def test_small_sizes_are_noted() -> None:
    levels = {finding.subject: finding.level for finding in doctor.check_machine(machine(cpus=1, memory_gib=2))}
    assert levels["CPUs"] == levels["memory"] == Level.NOTE
    assert levels["disk"] == levels["/dev/shm"] == Level.OK


def test_versions_that_differ_are_named(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"# tried\nnumpy=={metadata.version('numpy')}\npytest==1.0  # old\nnot-installed==1\n")
    (finding,) = doctor.check_versions(constraints)
    assert finding.level is Level.NOTE
    other = f"pytest {metadata.version('pytest')} (tried: 1.0)"
    assert finding.text == f"1 packages as in constraints.txt, 1 other: {other}"
    assert next(doctor.check_versions(tmp_path / "none.txt")).text.startswith("not compared")


def test_the_checkouts_constraints_are_found() -> None:
    assert doctor.read_pins(doctor.CONSTRAINTS)["torchcodec"] == "0.14.0"


def test_a_package_that_does_not_load_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise OSError('libcudart.so:\\n not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "IMPORTS", (("engine", "broken_package"), ("text", "json")))
    engine, text = doctor.check_imports()
    assert (engine.level, engine.text) == (
        Level.BLOCKS, "broken_package does not import: OSError: libcudart.so: not found")
    assert (text.level, text.text) == (Level.OK, "json imports")


def test_ray_needs_a_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert next(doctor.check_ray_start()).level is Level.OK
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    assert next(doctor.check_ray_start()).level is Level.BLOCKS
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "join the cluster at 10.0.0.1:6379" in next(doctor.check_ray_start()).text


def test_the_command_reports_every_subject() -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "squall", "doctor"]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    findings = [(line[:7].strip(), line[8:24].strip()) for line in result.stdout.splitlines()]
    levels, subjects = zip(*(finding for finding in findings if finding[0] in set(Level)), strict=True)
    assert {"CPUs", "memory", "disk", "/dev/shm", "Python", "versions", "torch", "torchvision hook", "engine",
            "learner", "cluster", "Ray"} <= set(subjects)
    assert result.returncode == (1 if "blocks" in levels else 0)
    assert "What that means:" in result.stdout
