"""Clips by manifest: the answers are the classes, and what cannot be read is left out and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squall.platform.errors import ConfigError, DataError
from squall.platform.image_data import ImageDataConfig, load_images
from squall.platform.video import encode_video

COLOURS = {"Red": (250, 10, 10), "blue": (10, 10, 250)}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one colour each, 6 frames of 24x32."""
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        encode_video(root / f"{name}.mp4", np.full((6, 24, 32, 3), colour, np.uint8), 10)
    (root / "broken.mp4").write_bytes(b"no video")
    return root


def record(number: int, video: str, solution: str, options: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    return {"id": f"clip-{number}", "problem": "Which colour?", "problem_type": "multiple choice" if options else "free-form",
            "data_type": "video", "path": f"{video}.mp4", "solution": f"<answer>{solution}</answer>",
            "options": list(options)} | values


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


def config(path: Path, **values: Any) -> ImageDataConfig:
    return ImageDataConfig(**{"format": "video", "path": path, "size": 12, "frames": 4, **values})


RECORDS = [record(1, "Red", "B", ("A. blue", "B. Red")), record(2, "blue", "B", ("A. Red", "B. blue")),
           record(3, "Red", "red"), record(4, "blue", "A. blue", ("A. blue", "B. Red"))]


def test_answers_are_classes_whatever_letter_they_have(media: Path) -> None:
    data = load_images(config(write(media / "all.jsonl", RECORDS), test_path=media / "all.jsonl"), "train")
    assert data.classes == ("blue", "Red") and data.labels.tolist() == [1, 0, 1, 0]
    assert data.shape == (3, 4, 12, 12)
    for image, label in zip(data.images, data.labels, strict=True):
        assert image.mean(axis=(0, 1, 2)) == pytest.approx(COLOURS[data.classes[label]], abs=12)


def test_short_clips_repeat_frames(media: Path) -> None:
    assert load_images(config(write(media / "all.jsonl", RECORDS), frames=9), "train").shape == (3, 9, 12, 12)


def test_a_single_manifest_lends_a_fifth_of_each_class_for_testing(media: Path) -> None:
    records = [record(number, "Red" if number % 2 else "blue", "Red" if number % 2 else "blue") for number in range(20)]
    file = write(media / "many.jsonl", records)
    train, test = (load_images(config(file), split) for split in ("train", "test"))
    assert (np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()) == ([8, 8], [2, 2])


def test_a_folder_has_a_manifest_for_each_split(media: Path) -> None:
    write(media / "train.jsonl", RECORDS)
    with pytest.raises(DataError, match="no test.jsonl in it") as error:
        load_images(config(media), "test")
    assert error.value.reason == "missing_file"
    write(media / "test.jsonl", RECORDS[:1])
    test = load_images(config(media), "test")
    assert test.classes == ("blue", "Red") and test.labels.tolist() == [1]


def test_clips_that_cannot_be_read_are_left_out_and_named(media: Path) -> None:
    lost = [record(5, "broken", "red"), record(6, "missing", "red")]
    data = load_images(config(write(media / "lost.jsonl", RECORDS + lost), test_path=media / "lost.jsonl"), "train")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert len(data.dropped) == 2 and "clip-6" in data.dropped[0] and "clip-5" in data.dropped[1]
    broken = [record(1, "broken", "red"), record(2, "broken", "blue")]
    with pytest.raises(DataError, match="none of 2 files can be read; the first: .*clip-1"):
        load_images(config(write(media / "none.jsonl", broken), test_path=media / "none.jsonl"), "train")


def test_a_kind_of_question_is_chosen(media: Path) -> None:
    asked = [one | {"question_type": "colour"} for one in RECORDS[:2]]
    asked += [record(7, "Red", "1", question_type="count"), record(8, "blue", "2", question_type="count")]
    file = write(media / "asked.jsonl", asked)
    with pytest.raises(ConfigError, match="choose one with question_type: colour, count"):
        load_images(config(file), "train")
    chosen = config(file, test_path=file, question_type="count")
    assert load_images(chosen, "train").classes == ("1", "2")
    assert load_images(config(file, test_path=file, problem_type="multiple choice"), "train").classes == ("blue", "Red")
    with pytest.raises(ConfigError, match="question_type 'color'. Did you mean 'colour'\\? It has: colour, count"):
        load_images(config(file, question_type="color"), "train")


def test_answers_that_training_lacks_and_a_single_answer_are_refused(media: Path) -> None:
    test = write(media / "other.jsonl", [record(9, "Red", "green")])
    with pytest.raises(DataError, match="clip-9: its answer 'green' is that of no training clip; classes: blue, Red") as error:
        load_images(config(write(media / "all.jsonl", RECORDS), test_path=test), "test")
    assert error.value.reason == "unknown_class"
    with pytest.raises(DataError, match="1 different answers among 1 training clips") as error:
        load_images(config(test, test_path=test), "train")
    assert error.value.reason == "one_class"
