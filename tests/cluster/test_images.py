"""The Dockerfiles: pinned, not root, without secrets, and made by the same `make env` as everywhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster_files import CLUSTER, ROOT

KINDS = ("cpu", "gpu")


def instructions(kind: str) -> list[tuple[str, str]]:
    text = (CLUSTER / "docker" / f"Dockerfile.{kind}").read_text()
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#"))).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_pinned_and_made_from_the_lock_file_for_a_user(kind: str) -> None:
    steps = instructions(kind)
    assert ("ARG", "BASE=python:3.11.13-slim-bookworm") in steps and ("FROM", "${BASE}") in steps
    assert any(name == "RUN" and f"make env EXTRAS={kind},aws VENV=/opt/venv" in text for name, text in steps)
    assert any(name == "RUN" and "openssh-client rsync" in text for name, text in steps), "for `ray up`"
    copied = " ".join(text for name, text in steps if name == "COPY")
    assert "constraints.txt" in copied and "Makefile" in copied
    assert [text for name, text in steps if name == "USER"] == ["1000:1000"]
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")
    assert not re.search("TOKEN|SECRET|PASSWORD|API_KEY", " ".join(text for _, text in steps))
    assert any("RAY_AUTH_MODE=token" in text for name, text in steps if name == "ENV")


@pytest.mark.parametrize("kind", KINDS)
def test_the_build_sees_what_it_copies_and_nothing_else(kind: str) -> None:
    lines = (CLUSTER / "docker" / f"Dockerfile.{kind}.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    assert patterns[0] == "*" and all((ROOT / path).exists() for path in allowed)
    copied = {path for name, text in instructions(kind) if name == "COPY" for path in text.split()[:-1]}
    assert copied == allowed


def test_the_two_differ_in_extras_and_devices_alone() -> None:
    cpu, gpu = (Path(CLUSTER / "docker" / f"Dockerfile.{kind}").read_text().splitlines()[4:] for kind in KINDS)
    only_cpu, only_gpu = set(cpu) - set(gpu), set(gpu) - set(cpu)
    assert all(re.search("EXTRAS|libnuma|USAGE_STATS", line) for line in only_cpu)
    assert all(re.search("EXTRAS|build-essential|A compiler|USAGE_STATS|NVIDIA", line) for line in only_gpu)
