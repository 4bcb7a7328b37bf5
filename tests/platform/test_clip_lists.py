"""Lists and published layouts become labelled files; lines that cannot be used are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from squall.platform.clip_data import TatsDataConfig
from squall.platform.clip_lists import has_validation, read_clip_list
from squall.platform.errors import ConfigError, DataError


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Factory: a folder with these files, empty or of a content. Nothing is decoded, so that empty clips do."""

    def write(*names: str, **contents: str) -> Path:
        for name, text in {**dict.fromkeys(names, ""), **contents}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def listed(folder: Path, text: str, **keys: Any) -> TatsDataConfig:
    (folder / "train.txt").write_text(text)
    return TatsDataConfig(**{"format": "list", "path": folder / "train.txt", "test_path": folder / "train.txt",
                             "validation_share": 0, **keys})


def test_a_tab_a_comma_or_blanks_are_between_path_and_label(put: Any) -> None:
    folder = put("a.mp4", "b c.mp4", "sub/d.mp4")
    text = f'a.mp4\t2\n\nb c.mp4  0\n"sub/d.mp4", 1\n{folder}/a.mp4,0\n'
    found = read_clip_list(listed(folder, text), "train")
    assert [(Path(entry.path).relative_to(folder).as_posix(), entry.label) for entry in found.entries] == [
        ("a.mp4", 2), ("b c.mp4", 0), ("sub/d.mp4", 1), ("a.mp4", 0)]
    assert found.classes == ("0", "1", "2") and found.labels.tolist() == [2, 0, 1, 0]
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "e.mp4").touch()
    moved = read_clip_list(listed(folder, "e.mp4 0\n", root=folder / "elsewhere"), "train")
    assert moved.entries[0].path == str(folder / "elsewhere" / "e.mp4")


BAD = "a.mp4 0\nnowhere.mp4 1\na.mp4 jump\na.mp4\na.mp4 -1\na.mp4 1\n"


def test_lines_that_cannot_be_used_are_named_and_refused_or_dropped(put: Any) -> None:
    folder = put("a.mp4")
    with pytest.raises(DataError) as caught:
        read_clip_list(listed(folder, BAD), "train")
    assert str(caught.value) == (
        f"{folder}/train.txt:2: no clip {folder}/nowhere.mp4; {folder}/train.txt:3: label 'jump' is no whole number from 0 on; "
        f"{folder}/train.txt:4: 'a.mp4' is not a path and a label, such as 'clips/a.mp4 0' (1 more bad lines); mend the list, "
        "or leave such lines out with bad_lines: drop")
    left = read_clip_list(listed(folder, BAD, bad_lines="drop"), "train")
    assert left.labels.tolist() == [0, 1] and len(left.dropped) == 4 and left.dropped[3].startswith(f"{folder}/train.txt:5: ")
    with pytest.raises(DataError, match=r"train.txt:1: label 2: there are 2 classes, from 0 to 1"):
        read_clip_list(listed(folder, "a.mp4 2\n", classes=("run", "walk")), "train")
    with pytest.raises(DataError, match=r"no clips; of 1 entries none can be used, the first: .*train.txt:1: no clip"):
        read_clip_list(listed(folder, "gone.mp4 0\n", bad_lines="drop"), "train")
    with pytest.raises(DataError, match="no such list"):
        read_clip_list(TatsDataConfig(format="list", path=folder / "none.txt"), "train")


def test_classes_of_test_clips_are_those_of_training(put: Any) -> None:
    folder = put("a.mp4")
    (folder / "test.txt").write_text("a.mp4 1\na.mp4 3\n")
    config = listed(folder, "a.mp4 0\na.mp4 2\n", test_path=folder / "test.txt")
    with pytest.raises(DataError, match=r"test.txt:2: label 3: there are 3 classes"):
        read_clip_list(config, "test")


def test_splits_share_no_clip_and_keep_the_shares_of_classes(put: Any) -> None:
    names = [f"{number}.mp4" for number in range(50)]
    folder = put(*names)
    text = "".join(f"{name} {number % 2}\n" for number, name in enumerate(names))
    config = listed(folder, text, test_path=None, validation_share=0.2, train_clips=20)
    parts = {split: read_clip_list(config, split) for split in ("train", "validation", "test")}
    assert {split: len(part.entries) for split, part in parts.items()} == {"train": 20, "validation": 8, "test": 10}
    assert sum(part.labels.sum() for part in parts.values()) == 19
    assert len({entry.name for part in parts.values() for entry in part.entries}) == 38
    with pytest.raises(ConfigError, match=r"validation_share 0.0 of 40 clips sets none aside"):
        read_clip_list(listed(folder, text, test_path=None), "validation")


@pytest.mark.parametrize(("share", "keys", "there"), [
    (0.2, {}, True), (0.0, {}, False), (0.04, {}, False),  # of 8 clips that are left for training
    (0.2, {"train_clips": 1}, True),  # they are set aside before it is limited
    (0.0, {"validation_path": "train.txt"}, True),
])
def test_it_is_known_whether_clips_are_set_aside(put: Any, share: float, keys: dict[str, Any], there: bool) -> None:
    folder = put(*(f"{number}.mp4" for number in range(10)))
    text = "".join(f"{number}.mp4 {number % 2}\n" for number in range(10))
    keys = {name: folder / value if name == "validation_path" else value for name, value in keys.items()}
    config = listed(folder, text, test_path=None, validation_share=share, **keys)
    assert has_validation(config) == there
    if there:
        assert read_clip_list(config, "validation").entries


def test_a_label_that_is_some_other_number_is_a_bad_line(put: Any) -> None:
    with pytest.raises(DataError, match="train.txt:1: label 2013051400: without `classes` labels go up to 99,999"):
        read_clip_list(listed(put("a.mp4"), "a.mp4 2013051400\n"), "train")


def test_splits_of_folders_number_their_classes_alike(put: Any) -> None:
    folder = put("train/drum/a.mp4", "train/hug/b.mp4", "train/jump/c.mp4", "val/drum/d.mp4", "val/jump/e.mp4")
    config = TatsDataConfig(format="kinetics", path=folder, validation_share=0)
    train, test = (read_clip_list(config, split) for split in ("train", "test"))
    assert train.labels.tolist() == [0, 1, 2] and test.labels.tolist() == [0, 2]
    assert test.classes == train.classes == ("drum", "hug", "jump")
    put("val/yawn/f.mp4")
    with pytest.raises(DataError, match="the answer 'yawn' is that of no training clip"):
        read_clip_list(config, "test")


def test_a_published_layout_comes_through_its_importer(put: Any) -> None:
    clips = [f"UCF-101/{name}/v_{name}_g0{group}_c01.avi" for name in ("Archery", "Bowling") for group in range(1, 6)]
    train = "".join(f"{clip.partition('/')[2]} {1 + ('Bowling' in clip)}\n" for clip in clips[:4] + clips[5:9])
    lists = {"classInd": "1 Archery\n2 Bowling\n", "trainlist01": train + "Archery/v_gone.avi 1\n",
             "testlist01": "Archery/v_Archery_g05_c01.avi\nBowling/v_Bowling_g05_c01.avi\n"}
    folder = put(*clips, **{f"ucfTrainTestlist/{name}.txt": text for name, text in lists.items()})
    config = TatsDataConfig(format="ucf101", path=folder, validation_share=0.25)
    parts = {split: read_clip_list(config, split) for split in ("train", "validation", "test")}
    assert [parts[split].labels.tolist() for split in ("validation", "test")] == [[0, 1], [0, 1]]
    assert parts["train"].classes == ("Archery", "Bowling") and parts["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(parts["train"].dropped) == 1 and "v_gone.avi" in parts["train"].dropped[0]
    with pytest.raises(DataError, match="no such folder"):
        read_clip_list(TatsDataConfig(format="ucf101", path=folder / "none"), "train")


def test_answers_of_a_manifest_are_classes_numbered_as_in_training(put: Any) -> None:
    folder = put("a.mp4")

    def write(name: str, answers: list[str]) -> Path:
        records = [{"id": f"{name}-{i}", "problem": "?", "problem_type": "free-form", "data_type": "video", "path": "a.mp4",
                    "solution": f"<answer>{answer}</answer>"} for i, answer in enumerate(answers)]
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder / name

    config = TatsDataConfig(format="manifest", path=write("train.jsonl", ["cat", "bee", "dog"]),
                            validation_path=write("validation.jsonl", ["dog", "cat"]),
                            test_path=write("test.jsonl", ["dog", "bee"]))
    labels = {split: read_clip_list(config, split).labels.tolist() for split in ("train", "validation", "test")}
    assert labels == {"train": [1, 0, 2], "validation": [2, 1], "test": [2, 0]}
    lending = TatsDataConfig(format="manifest", path=write("five.jsonl", ["a", "b", "c", "d", "e"]),
                             validation_path=write("last.jsonl", ["b", "e"]))
    assert read_clip_list(lending, "train").classes == ("b", "c", "d", "e")  # a fifth, the clip of a, is for testing
    assert read_clip_list(lending, "validation").labels.tolist() == [0, 3]
    with pytest.raises(DataError, match="the answer 'a' is that of no training clip"):
        read_clip_list(lending.model_copy(update={"validation_path": write("first.jsonl", ["a"])}), "validation")
    with pytest.raises(ConfigError, match="a folder has its own"):
        read_clip_list(TatsDataConfig(format="manifest", path=folder, test_path=config.test_path), "test")
