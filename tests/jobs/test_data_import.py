"""`squall data import`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from squall import cli
from squall.platform.manifest import load_manifest
from squall.platform.runs import read_lines
from squall.platform.video import encode_video


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    """Three clips of two classes, one of them not downloaded, and one that is in no class."""
    source = tmp_path / "ucf"
    (source / "Archery").mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
    for name in ("a", "b"):
        encode_video(source / f"Archery/{name}.avi", frames, 8.0)
    (source / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    (source / "testlist01.txt").write_text("Archery/a.avi\nArchery/b.avi\nBowling/gone.avi\nDiving/x.avi\n")
    return source


def squall(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `squall data import WORDS`."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["data", "import", *map(str, words)])
    return (int(exit_info.value.code or 0), *capsys.readouterr())


def test_manifest_and_rejected_entries(ucf101: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "test.jsonl"
    status, printed, _ = squall(capsys, "ucf101", ucf101, output)
    assert status == 0 and f"{output}: 2 questions about 2 clips\n" in printed
    assert "rejected, missing_media: 1\n" in printed and "rejected, unknown_class: 1\n" in printed
    first, _ = read_lines(output)
    assert (first["path"], first["options"], first["solution"]) == (
        "ucf/Archery/a.avi", ["Archery", "Bowling"], "<answer>Archery</answer>")
    assert [sample.id for sample in load_manifest(output).samples] == ["Archery/a.avi", "Archery/b.avi"]
    rejected = read_lines(tmp_path / "test.rejected.jsonl")
    assert [(one["id"], one["reason"]) for one in rejected] == [
        ("Bowling/gone.avi", "missing_media"), ("Diving/x.avi", "unknown_class")]
    assert rejected[0]["where"] == f"{ucf101}/testlist01.txt:3" and rejected[0]["message"] in printed


def test_clips_elsewhere_have_absolute_paths_and_a_clean_import_leaves_no_list_of_rejections(
    ucf101: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    Path("new/some.rejected.jsonl").write_text("{}\n")
    Path("ucf/short.txt").write_text("Archery/b.avi\nArchery/a.avi\n")
    status, printed, _ = squall(capsys, "ucf101", "ucf", "new/some.jsonl", "list_file=short.txt", "limit=1")
    assert status == 0 and "1 question about 1 clip; 1 more left out by limit\n" in printed and "rejected" not in printed
    (record,) = [json.loads(line) for line in Path("new/some.jsonl").read_text().splitlines()]
    assert record["path"].startswith(f"{ucf101}/Archery/")
    assert sorted(path.name for path in Path("new").iterdir()) == ["some.jsonl"]


@pytest.mark.parametrize(("words", "message"), [
    (["ucf", "{ucf}", "o.jsonl"], "unknown format. Did you mean 'ucf101'?"),
    (["ucf101", "{ucf}", "o.json"], "use a name that ends in .jsonl"),
    (["ucf101", "nowhere", "o.jsonl"], "nowhere: no such folder; SOURCE is the folder of the data set"),
    (["ucf101", "{ucf}/classInd.txt", "o.jsonl"], "a file; unpack it"),
    (["ucf101", "{ucf}", "o.jsonl", "split=validation"], "split 'validation' is none of ucf101's. Allowed: train, test"),
    (["mmvu", "{ucf}", "o.jsonl", "split=test"], "It has none; leave it out"),
    (["mmvu", "{ucf}", "o.jsonl", "fold=2"], "mmvu makes no use of 'fold', only ucf101, hmdb51 do"),
    (["ucf101", "{ucf}", "o.jsonl", "list_file=gone.txt"], "gone.txt: no such list"),
    (["ucf101", "{ucf}", "o.jsonl", "list_file=none.txt"], "not one of 1 record can be used; the first: "),
])
def test_what_cannot_be_imported_is_one_line(ucf101: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (ucf101 / "none.txt").write_text("Bowling/gone.avi\n")
    status, _, error = squall(capsys, *(word.replace("{ucf}", str(ucf101)) for word in words))
    assert status == 2 and message in error and error.count("\n") == 1
    assert not Path(words[2]).exists()
