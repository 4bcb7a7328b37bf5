"""A run directory's copy at a URI: through fsspec's own local and in-memory filesystems, the latter made to fail."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import TypeAdapter, ValidationError

from squall.platform import remote
from squall.platform.errors import SquallError
from squall.platform.remote import Output, RemoteCopy, open_remote


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def memory() -> MemoryFileSystem:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    return fs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "r"
    write(folder, "metrics.jsonl", "1\n")
    write(folder, "checkpoints/step-000002/state.json", "{}")
    write(folder, "checkpoints/step-000002/model.safetensors", "weights")
    write(folder, ".lock", "me")
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_copy_follows_what_changes_and_what_goes(run: Path, tmp_path: Path) -> None:
    copy = RemoteCopy(f"file://{tmp_path}/there", "r")
    copy.start(run)
    copy.copy()
    write(run, "metrics.jsonl", "1\n2\n")
    (run / "checkpoints/step-000002/model.safetensors").unlink()
    copy.close()
    assert texts(tmp_path / "there" / "r") == {"metrics.jsonl": "1\n2\n", "checkpoints/step-000002/state.json": "{}"}


def test_seal_of_a_checkpoint_arrives_after_the_rest_of_it(run: Path, memory: MemoryFileSystem,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    put = MemoryFileSystem.put_file
    monkeypatch.setattr(MemoryFileSystem, "put_file",
                        lambda self, here, there, **more: (order.append(there), put(self, here, there, **more))[1])
    copy = RemoteCopy("memory://runs", "r")
    copy.start(run)
    copy.close()
    assert order[-1].endswith("state.json") and len(order) == 3


def test_run_of_another_machine_is_fetched_when_it_is_further(run: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"file://{tmp_path}/there"
    copy = RemoteCopy(place, "r")
    copy.start(run)
    copy.close()
    other = tmp_path / "other-machine"
    other.mkdir()
    monkeypatch.chdir(other)
    said: list[str] = []
    assert open_remote(place, "r", True, said.append) is not None
    assert texts(other / "runs" / "r") == {k: v for k, v in texts(run).items() if k != ".lock"} and "fetched" in said[0]
    write(other / "runs" / "r", "checkpoints/step-000004/state.json", "{}")
    assert not RemoteCopy(place, "r").fetch(other / "runs" / "r")  # what is here is further now
    write(tmp_path / "there" / "r", "checkpoints/step-000004/state.json", "{}")
    write(tmp_path / "there" / "r", "checkpoints/step-000006/state.json", "{}")
    assert RemoteCopy(place, "r").fetch(other / "runs" / "r")
    aside, = (other / "runs").glob("r.before-*")
    assert (aside / "checkpoints/step-000004").is_dir()


def test_fetch_that_breaks_off_leaves_nothing(memory: MemoryFileSystem, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/runs/r/a.txt", b"a")
    monkeypatch.setattr(MemoryFileSystem, "get_file", broken)
    with pytest.raises(OSError, match="cable"):
        RemoteCopy("memory://runs", "r").fetch(tmp_path / "r")
    assert not list(tmp_path.iterdir())


def broken(*arguments: object, **more: object) -> None:
    raise OSError("the cable is out")


def test_trouble_is_told_once_and_the_copy_made_when_it_is_over(run: Path, memory: MemoryFileSystem,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "INTERVAL_S", 0.02)
    said: list[str] = []
    copy = RemoteCopy("memory://runs", "r", said.append)
    with monkeypatch.context() as during:
        during.setattr(MemoryFileSystem, "put_file", broken)
        copy.start(run)
        wait_for(lambda: said)
    wait_for(lambda: len(said) == 2)
    copy.close()
    assert "cannot be written now (OSError: the cable is out)" in said[0] and "is written again" in said[1]
    assert memory.cat("/runs/r/metrics.jsonl") == b"1\n"


def wait_for(condition: object) -> None:
    import time

    end = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_copy_that_fails_to_the_end_says_where_the_run_is(run: Path, memory: MemoryFileSystem,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    copy = RemoteCopy("memory://runs", "r")
    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    copy.start(run)
    with pytest.raises(SquallError, match=r"could not be written \(OSError: the cable is out\); all of it is in /.*/r:"):
        copy.close()


def test_new_run_does_not_take_a_name_that_is_taken_there(memory: MemoryFileSystem) -> None:
    memory.pipe("/runs/r/config.yaml", b"a")
    with pytest.raises(SquallError, match="memory://runs/r: already holds a run"):
        open_remote("memory://runs", "r", False, print)


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SquallError, match=r"output: file://.*/file/r cannot be written \((NotADirectory|FileExists)Error"):
        RemoteCopy(f"file://{tmp_path}/file", "r")


def test_place_that_does_not_answer_is_given_up(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(remote, "PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(MemoryFileSystem, "makedirs", lambda *arguments, **more: threading.Event().wait(5))
    with pytest.raises(SquallError, match="does not answer within"):
        RemoteCopy("memory://runs", "r")


@pytest.mark.parametrize(("output", "message"), [
    ("gcss://bucket/runs", "unknown protocol 'gcss'. Did you mean 'gcs'"),
    ("ftp://me:hunter2@host/runs", "holds a password"),
])
def test_output_that_cannot_be_is_refused_with_the_configuration(output: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Output).validate_python(output)
    assert message in str(refused.value)
