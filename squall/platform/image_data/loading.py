"""From a configuration to images in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from squall.platform.errors import DataError
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet, divide

Split = Literal["train", "test"]
Choose = Callable[[np.ndarray], np.ndarray]
"""Which of the images with these labels are taken: rows, ascending."""
Item = TypeVar("Item")
LIMIT_SEED = 42
_READERS = {"digits": "digits", "idx": "idx", "cifar10": "cifar", "cifar100": "cifar", "folder": "folder", "video": "clips"}


def load_images(config: ImageDataConfig, split: Split) -> ImageSet:
    """The training or test images of a data set. Those that cannot be decoded are left out and named in `dropped`.

    Raises:
        DataError: a file is missing or damaged, a label is no class, or nothing is left; `reason` says which.
        ConfigError: the configuration does not fit the files.
    """
    reader = import_module(f"squall.platform.image_data.{_READERS[config.format]}")
    limit = config.train_images if split == "train" else config.test_images

    def choose(labels: np.ndarray) -> np.ndarray:
        if not len(labels):
            raise DataError(f"{config.path}: the {split} split holds no images", reason="empty_split")
        if limit is None or limit >= len(labels):
            return np.arange(len(labels))
        return divide(labels, limit, LIMIT_SEED)[0]

    return reader.read(config, split, choose)


def check_labels(labels: np.ndarray, classes: Sequence[str], file: Path) -> None:
    """Raises DataError, which names the first record, where a label of a file is no class."""
    wrong = np.flatnonzero(labels >= len(classes))
    if len(wrong):
        raise DataError(f"{file}: record {wrong[0] + 1} has label {labels[wrong[0]]}, and the {len(classes)} classes are 0 to "
                        f"{len(classes) - 1} ({len(wrong)} such labels)", reason="unknown_label")


def read_each(items: Sequence[Item], read: Callable[[Item], np.ndarray], shape: tuple[int, ...], threads: int, where: str
              ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels (n, \\*shape) of the items that can be read, their rows, and a line about each of the others.

    Raises:
        DataError: none can be read.
    """
    def attempt(item: Item) -> np.ndarray | DataError:
        try:
            return read(item)
        except DataError as error:
            return error

    images = np.empty((len(items), *shape), np.uint8)
    kept: list[int] = []
    dropped: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for row, result in enumerate(pool.map(attempt, items)):
            if isinstance(result, DataError):
                dropped.append(str(result))
            else:
                images[len(kept)] = result
                kept.append(row)
    if not kept:
        raise DataError(f"{where}: none of {len(items)} files can be read; the first: {dropped[0]}", reason="nothing_readable")
    return images[:len(kept)], np.array(kept), tuple(dropped)
