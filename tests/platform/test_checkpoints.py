"""Checkpoints: tensors in several files come back, and a damaged one is told from a good one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from squall.platform import checkpoints
from squall.platform.checkpoints import StoredTensors, read_state, seal, write_tensors
from squall.platform.errors import SquallError


def test_tensors_come_back_from_as_many_files_as_they_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 100)
    tensors = {f"t{i}": torch.randn(4, 5) for i in range(5)}
    write_tensors(tmp_path / "trainer", iter(tensors.items()), {"updates": 7})
    stored = StoredTensors(tmp_path / "trainer")
    assert stored.metadata == {"updates": 7} and list(stored) == list(tensors)
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    assert len(list((tmp_path / "trainer").glob("*.safetensors"))) == 3


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: (path / "trainer" / "00000.safetensors").write_bytes(b"short"), "00000.safetensors has 5 bytes in place of"),
    (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    (lambda path: (path / "state.json").write_text('{"step": 3'), "state.json is missing or unreadable"),
    (lambda path: (path / "state.json").unlink(), "state.json is missing or unreadable"),
])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage, message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SquallError, match="the learner's files are not here; `output` must be a folder that all nodes share"):
        seal(tmp_path, {})
    write_tensors(tmp_path / "trainer", [("a", torch.ones(3))], {})
    seal(tmp_path, {"step": 3, "cursor": 40})
    assert read_state(tmp_path) == {"step": 3, "cursor": 40}
    damage(tmp_path)
    with pytest.raises(SquallError, match=f"damaged checkpoint: .*{message}"):
        read_state(tmp_path)
