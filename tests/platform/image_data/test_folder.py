"""Images in folders: sizes, crops, and files that cannot be read."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from squall.platform.errors import DataError
from squall.platform.image_data import ImageDataConfig, load_images
from squall.platform.image_data.resizing import resize_and_crop


def write_image(file: Path, colour: tuple[int, int, int], height: int = 20, width: int = 30) -> None:
    """`colour` is RGB; a strip at the left and one at the right are black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width * 2 // 15:width - width * 2 // 15] = colour[::-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)


def bitmap_header(height: int, width: int) -> bytes:
    """Of an image without pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write_image(tmp_path / split / "sky" / "one.png", (10, 20, 250))
        write_image(tmp_path / split / "grass" / "deep" / "two.JPG", (10, 200, 20), 40, 60)
        write_image(tmp_path / split / "grass" / "three.png", (10, 200, 20), 30, 20)
        (tmp_path / split / "grass" / "notes.txt").write_text("no image")
    return tmp_path


def test_classes_are_the_folders_and_images_are_resized_and_cropped(folder: Path) -> None:
    config = ImageDataConfig(format="folder", path=folder, size=10, decode_threads=2)
    train, test = (load_images(config, split) for split in ("train", "test"))
    assert train.classes == ("grass", "sky") and train.labels.tolist() == [0, 0, 1]
    assert train.shape == (3, 10, 10) and test.hash == train.hash
    assert train.images[2].reshape(-1, 3).tolist() == [[10, 20, 250]] * 100  # the black sides are cropped away


def test_unreadable_files_are_left_out_and_named(folder: Path) -> None:
    (folder / "train" / "grass" / "broken.jpg").write_bytes(b"no picture")
    (folder / "train" / "sky" / "empty.png").touch()
    (folder / "train" / "sky" / "vast.bmp").write_bytes(bitmap_header(100_000, 100_000))
    config = ImageDataConfig(format="folder", path=folder, size=8)
    data = load_images(config, "train")
    assert data.labels.tolist() == [0, 0, 1]
    assert [Path(line.split(": ")[0]).name for line in data.dropped] == ["broken.jpg", "empty.png", "vast.bmp"]
    for file in (folder / "val").rglob("*.*"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 3 files can be read; the first: .*two.JPG") as error:
        load_images(config, "test")
    assert error.value.reason == "nothing_readable"


def test_classes_that_training_lacks_and_missing_folders_are_refused(folder: Path) -> None:
    config = ImageDataConfig(format="folder", path=folder, size=8)
    write_image(folder / "val" / "gras" / "one.png", (1, 2, 3))
    with pytest.raises(DataError, match="no class of that name in train. Did you mean 'grass'") as error:
        load_images(config, "test")
    assert error.value.reason == "unknown_class"
    with pytest.raises(DataError, match="no folder train in it"):
        load_images(ImageDataConfig(format="folder", path=folder / "val", size=8), "train")
    with pytest.raises(DataError, match="no such folder"):
        load_images(ImageDataConfig(format="folder", path=folder / "none", size=8), "train")


@pytest.mark.parametrize("shape", [(7, 9, 1), (33, 10, 3), (8, 8, 3), (1, 50, 1)])
def test_any_size_becomes_the_square(shape: tuple[int, int, int]) -> None:
    image = np.full(shape, 77, np.uint8)
    assert resize_and_crop(image, 8).shape == (8, 8, shape[2])
    assert (resize_and_crop(image, 8) == 77).all()
