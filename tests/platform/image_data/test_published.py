"""Tiny files laid out as MNIST and CIFAR are published, and what is said of damaged ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from squall.platform.errors import DataError
from squall.platform.image_data import ImageDataConfig, load_images
from squall.platform.image_data.idx import read_idx

RANDOM = np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Six training images in plain files, four test images compressed; class 3 is in the test labels alone."""
    images = np.arange(10 * 4 * 5, dtype=np.uint8).reshape(10, 4, 5)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images[:6]))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx_bytes(np.array([0, 1, 2, 0, 1, 2])))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images[6:])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.array([3, 2, 1, 0]))))
    return tmp_path


def test_idx_files_are_read_by_their_published_names(mnist: Path) -> None:
    train, test = (load_images(ImageDataConfig(format="idx", path=mnist), split) for split in ("train", "test"))
    assert (train.shape, len(train), len(test)) == ((1, 4, 5), 6, 4)
    assert train.images[1, 2, 3, 0] == 1 * 20 + 2 * 5 + 3
    assert test.labels.tolist() == [3, 2, 1, 0] and test.labels.dtype == np.int64
    assert train.classes == test.classes == ("0", "1", "2", "3")
    assert len({train.hash, test.hash}) == 2


def test_the_idx_format_takes_names_of_classes(mnist: Path) -> None:
    (mnist / "names.txt").write_text("shirt\ncoat\nbag\nboot\n")
    named = load_images(ImageDataConfig(format="idx", path=mnist, classes=mnist / "names.txt"), "test")
    assert named.classes[named.labels[0]] == "boot"
    with pytest.raises(DataError, match=r"record 1 has label 3, and the 3 classes are 0 to 2 \(1 such labels\)") as error:
        load_images(ImageDataConfig(format="idx", path=mnist, classes=("a", "b", "c")), "test")
    assert error.value.reason == "unknown_label"


@pytest.mark.parametrize(("name", "content", "reason", "message"), [
    ("a", idx_bytes(np.zeros((2, 3)))[:4] + bytes(20), "wrong_magic", "begins with 00000802, and .* begins with 00000801"),
    ("a", b"", "wrong_magic", "begins with nothing"),
    ("a", idx_bytes(np.zeros(9))[:-1], "truncated", r"fewer bytes than the 9 of its shape \(9,\)"),
    ("a", bytes((0, 0, 8, 1)) + b"\xff\xff\xff\xff" + bytes(9), "truncated", "fewer bytes than the 4294967295"),
    ("a", idx_bytes(np.zeros(9)) + b"x", "too_long", "more bytes than the 9"),
    ("a.gz", b"no gzip at all", "not_gzip", "not a gzip file"),
    ("a.gz", gzip.compress(idx_bytes(RANDOM.integers(0, 256, 999)))[:-300], "truncated", "cut short or damaged"),
])
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_idx(file, 1)
    assert error.value.reason == reason and str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_header_that_claims_more_than_its_file_can_hold_reserves_no_memory(tmp_path: Path, name: str) -> None:
    content = bytes((0, 0, 8, 3)) + b"\xff" * 12 + bytes(100)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match="fewer bytes than the 79228162458924105385300197375") as error:
        read_idx(tmp_path / name, 3)
    assert error.value.reason == "truncated"


def test_missing_or_mismatched_idx_files_are_named(mnist: Path, tmp_path: Path) -> None:
    config = ImageDataConfig(format="idx", path=mnist)
    (mnist / "train-labels.idx1-ubyte").write_bytes(idx_bytes(np.array([0, 1])))
    with pytest.raises(DataError, match="6 images, and train-labels.idx1-ubyte has 2 labels") as error:
        load_images(config, "train")
    assert error.value.reason == "count_mismatch"
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz in it") as error:
        load_images(config, "test")
    assert error.value.reason == "missing_file"
    with pytest.raises(DataError, match="no such folder"):
        load_images(ImageDataConfig(format="idx", path=tmp_path / "none"), "train")


def cifar_records(labels: list[int], *, coarse: bool) -> tuple[bytes, np.ndarray]:
    pixels = RANDOM.integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
    heads = [bytes((19 - label % 20, label)) if coarse else bytes((label,)) for label in labels]
    return b"".join(head + image.tobytes() for head, image in zip(heads, pixels, strict=True)), pixels


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar_records([number, 9], coarse=False)[0])
    return tmp_path


def test_cifar_10_is_read_from_its_five_batches(cifar10: Path) -> None:
    content, pixels = cifar_records([3, 8, 0], coarse=False)
    (cifar10 / "test_batch.bin").write_bytes(content)
    train, test = (load_images(ImageDataConfig(format="cifar10", path=cifar10), split) for split in ("train", "test"))
    assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert test.shape == (3, 32, 32) and np.array_equal(test.images, pixels.transpose(0, 2, 3, 1))
    assert [test.classes[label] for label in test.labels] == ["cat", "ship", "airplane"]


def test_cifar_100_goes_by_fine_labels_and_their_names(tmp_path: Path) -> None:
    content, pixels = cifar_records([99, 7], coarse=True)
    (tmp_path / "train.bin").write_bytes(content)
    config = ImageDataConfig(format="cifar100", path=tmp_path)
    unnamed = load_images(config, "train")
    assert unnamed.labels.tolist() == [99, 7] and unnamed.classes[99] == "99"
    assert np.array_equal(unnamed.images[1], pixels[1].transpose(1, 2, 0))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"thing {number}" for number in range(100)) + "\n")
    assert load_images(config, "train").classes[99] == "thing 99"
    (tmp_path / "fine_label_names.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="2 names for 100 classes") as error:
        load_images(config, "train")
    assert error.value.reason == "bad_names"


def test_damaged_cifar_files_are_named(cifar10: Path) -> None:
    config = ImageDataConfig(format="cifar10", path=cifar10)
    with pytest.raises(DataError, match="test_batch.bin: no such file") as error:
        load_images(config, "test")
    assert error.value.reason == "missing_file"
    (cifar10 / "test_batch.bin").write_bytes(b"")
    with pytest.raises(DataError, match="the test split holds no images") as error:
        load_images(config, "test")
    assert error.value.reason == "empty_split"
    whole = (cifar10 / "data_batch_2.bin").read_bytes()
    (cifar10 / "data_batch_2.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="data_batch_2.bin: 6145 bytes are no whole number of records of 3073") as error:
        load_images(config, "train")
    assert error.value.reason == "truncated"
    (cifar10 / "data_batch_2.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(DataError, match="data_batch_2.bin: record 1 has label 10, and the 10 classes are 0 to 9"):
        load_images(config, "train")
