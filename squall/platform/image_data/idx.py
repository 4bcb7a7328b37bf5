"""MNIST and Fashion-MNIST as they are published: idx files, compressed or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from squall.platform.class_list import read_classes
from squall.platform.errors import DataError
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet
from squall.platform.image_data.loading import Choose, Split, check_labels
from squall.platform.image_data.resizing import resized

PREFIX = {"train": "train", "test": "t10k"}
IMAGES, LABELS = 3, 1
"""Dimensions of the two kinds of file; also the last byte of their magic number."""
DEFLATE_LIMIT = 1032
"""By no more than this does gzip make a file smaller."""


def read(config: ImageDataConfig, split: Split, choose: Choose) -> ImageSet:
    """``train-images-idx3-ubyte`` and its neighbours, also with a dot for the hyphen before idx, also with .gz."""
    assert config.path is not None
    label_file = _find(config.path, split, LABELS)
    labels = read_idx(label_file, LABELS).astype(np.int64)
    image_file = _find(config.path, split, IMAGES)
    images = read_idx(image_file, IMAGES)
    if len(images) != len(labels):
        raise DataError(f"{image_file}: {len(images)} images, and {label_file.name} has {len(labels)} labels; they belong to "
                        "different sets", reason="count_mismatch")
    classes = read_classes(config.classes) if config.classes is not None else _numbers(config.path, labels)
    check_labels(labels, classes, label_file)
    rows = choose(labels)
    return ImageSet(resized(images[rows, ..., None], config.size), labels[rows], classes, f"{config.path.name}, {split}")


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """uint8 array with this many dimensions.

    Raises:
        DataError: ``wrong_magic``, ``truncated``, ``too_long`` or ``not_gzip``.
    """
    opened = gzip.open(file) if file.suffix == ".gz" else file.open("rb")
    limit = file.stat().st_size * (DEFLATE_LIMIT if file.suffix == ".gz" else 1)
    try:
        with opened as stream:
            magic, header = stream.read(4), stream.read(4 * dimensions)
            expected = bytes((0, 0, 8, dimensions))
            if magic != expected:
                raise DataError(f"{file}: begins with {magic.hex() or 'nothing'}, and an idx file of {dimensions} dimension"
                                f"{'s' if dimensions > 1 else ''} begins with {expected.hex()}", reason="wrong_magic")
            shape = tuple(map(int, np.frombuffer(header.ljust(4 * dimensions, b"\0"), ">u4")))
            size = math.prod(shape)
            data = stream.read(size + 1) if size <= limit else b""
    except gzip.BadGzipFile as error:
        raise DataError(f"{file}: not a gzip file: {error}", reason="not_gzip") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{file}: cut short or damaged: {error}; fetch it again", reason="truncated") from None
    if len(data) != size:
        short = len(data) < size
        raise DataError(f"{file}: {'fewer' if short else 'more'} bytes than the {size} of its shape {shape}; fetch it again",
                        reason="truncated" if short else "too_long")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _names(split: str, dimensions: int) -> list[str]:
    stem = f"{PREFIX[split]}-{'images' if dimensions == IMAGES else 'labels'}"
    return [f"{stem}{separator}idx{dimensions}-ubyte{suffix}" for suffix in ("", ".gz") for separator in "-."]


def _find(folder: Path, split: str, dimensions: int) -> Path:
    names = _names(split, dimensions)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        problem = f"no {names[0]} or {names[0]}.gz in it" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {problem}; path is the folder of the published files", reason="missing_file")
    return found


def _numbers(folder: Path, labels: np.ndarray) -> tuple[str, ...]:
    """The numbers up to the highest label of either split, so that both have the same classes."""
    files = [folder / name for split in PREFIX for name in _names(split, LABELS) if (folder / name).is_file()]
    highest = max(int(found.max(initial=0)) for found in (labels, *(read_idx(file, LABELS) for file in files)))
    return tuple(map(str, range(highest + 1)))
