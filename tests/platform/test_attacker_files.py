"""Attackers on disk: read back as written, and damage is told from good files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from squall.platform.attacker_files import DESCRIPTION, WEIGHTS, attackers_hash, read_attackers, write_attackers
from squall.platform.errors import DataError, SquallError

TENSORS = {"spatial.weight": torch.arange(6.0).reshape(2, 3)}


def written(folder: Path) -> Path:
    write_attackers(folder, {"agents": {"spatial": {"width": 3}}}, TENSORS)
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    description, tensors = read_attackers(written(tmp_path / "a"))
    assert description == {"agents": {"spatial": {"width": 3}}}
    assert torch.equal(tensors["spatial.weight"], TENSORS["spatial.weight"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_the_hash_is_of_the_contents(tmp_path: Path) -> None:
    one, same = attackers_hash(written(tmp_path / "one")), attackers_hash(written(tmp_path / "same"))
    write_attackers(tmp_path / "other", {"agents": {"spatial": {"width": 3}}}, {"spatial.weight": torch.zeros(2, 3)})
    assert one == same != attackers_hash(tmp_path / "other")


def test_a_folder_without_attackers_is_named(tmp_path: Path) -> None:
    with pytest.raises(SquallError, match=f"{tmp_path}: no trained attackers here; give the folder that holds attackers.json"):
        read_attackers(tmp_path)


@pytest.mark.parametrize(("file", "content", "message"), [
    (DESCRIPTION, b"{", "damaged attackers"),
    (DESCRIPTION, b"[]", "damaged attackers"),
    (WEIGHTS, b"\x80\x04pickle", "damaged attackers"),
    (DESCRIPTION, json.dumps({"version": 9, "weights": ""}).encode(), "of version 9, and this Squall reads 1"),
])
def test_damage_is_refused(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (written(tmp_path) / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_attackers(tmp_path)
    assert raised.value.reason == "damaged_attacker"


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a")
    write_attackers(tmp_path / "b", {}, {"spatial.weight": torch.zeros(2, 3)})
    (tmp_path / "b" / WEIGHTS).replace(tmp_path / "a" / WEIGHTS)
    with pytest.raises(DataError, match="attackers.safetensors is not the file that attackers.json describes"):
        read_attackers(tmp_path / "a")
