"""CIFAR-10 and CIFAR-100 in their binary versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from squall.platform.errors import DataError
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet
from squall.platform.image_data.loading import Choose, Split, check_labels
from squall.platform.image_data.resizing import resized

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class _Layout:
    """How a version is laid out: files of a split, bytes of label before each image (the last one counts), class names."""

    files: Mapping[Split, tuple[str, ...]]
    label_bytes: int
    names: str
    classes: tuple[str, ...]


LAYOUTS = {
    "cifar10": _Layout(
        {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}, 1,
        "batches.meta.txt", ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")),
    "cifar100": _Layout({"train": ("train.bin",), "test": ("test.bin",)}, 2,
                        "fine_label_names.txt", tuple(map(str, range(100)))),
}


def read(config: ImageDataConfig, split: Split, choose: Choose) -> ImageSet:
    """``data_batch_1.bin`` to ``test_batch.bin``, or ``train.bin`` and ``test.bin``, and a file of class names beside them."""
    assert config.path is not None
    layout = LAYOUTS[config.format]
    classes = _classes(config.path, layout)
    parts = [_records(config.path / name, layout, classes) for name in layout.files[split]]
    records = np.concatenate(parts)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    rows = choose(labels)
    images = records[rows, layout.label_bytes:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return ImageSet(resized(np.ascontiguousarray(images), config.size), labels[rows], classes, f"{config.path.name}, {split}")


def _records(file: Path, layout: _Layout, classes: tuple[str, ...]) -> np.ndarray:
    length = layout.label_bytes + PIXELS
    if not file.is_file():
        raise DataError(f"{file}: no such file; path is the folder of the binary version, with "
                        f"{', '.join(name for names in layout.files.values() for name in names)}", reason="missing_file")
    data = np.fromfile(file, np.uint8)
    if len(data) % length:
        raise DataError(f"{file}: {len(data)} bytes are no whole number of records of {length}; it is cut short, or another "
                        "version", reason="truncated")
    records = data.reshape(-1, length)
    check_labels(records[:, layout.label_bytes - 1], classes, file)
    return records


def _classes(folder: Path, layout: _Layout) -> tuple[str, ...]:
    file = folder / layout.names
    if not file.is_file():
        return layout.classes
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip())
    if len(names) != len(layout.classes):
        raise DataError(f"{file}: {len(names)} names for {len(layout.classes)} classes", reason="bad_names")
    return names
