"""Checkpoints of actors that do not see the run's folder arrive whole, and leave nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from squall.actors import run_files
from squall.actors.run_files import RunFiles, temporary_folder

pytestmark = pytest.mark.cluster


@pytest.fixture
def files(ray_cluster: object, tmp_path: Path) -> Iterator[RunFiles]:
    (tmp_path / "run").mkdir()
    served = RunFiles.of(tmp_path / "run", served=True)
    yield served
    served.close()


def left() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"squall-files-{os.getuid()}-{os.getpid()}-*"))


def test_who_sees_the_folder_writes_there_and_others_send_pieces(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "PIECE_BYTES", 1000)
    content = {"model.safetensors": os.urandom(2500), "trainer/00000.safetensors": os.urandom(3000), "empty": b""}
    elsewhere = replace(files, mark="another")  # as on a node with another folder of that name
    assert files.here and not elsewhere.here
    for name, way in (("here", files), ("sent", elsewhere)):
        (target := files.folder / name).mkdir()
        with way.writing(target) as folder:
            assert (folder == target) is (way is files)
            for file, value in content.items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(value)
        assert {file: (target / file).read_bytes() for file in content} == content
        with way.reading(target) as folder:
            assert (folder == target) is (way is files)
            assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content
    assert not left()


def test_a_file_that_was_not_written_to_its_end_is_not_sent(files: RunFiles) -> None:
    with pytest.raises(OSError, match="full"), replace(files, mark="another").writing(files.folder / "c") as folder:
        (folder / "half").write_bytes(b"1")
        raise OSError("full")
    assert not (files.folder / "c").exists() and not left()


def test_what_a_killed_process_left_is_removed() -> None:
    orphan = Path(tempfile.gettempdir()) / f"squall-files-{os.getuid()}-999999999-x"
    orphan.mkdir()
    with temporary_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0 and not orphan.exists()
