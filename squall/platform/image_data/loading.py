"""From a configuration to images in memory."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal

import numpy as np

from squall.platform.errors import DataError
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet, divide

Split = Literal["train", "test"]
Choose = Callable[[np.ndarray], np.ndarray]
"""Which of the images with these labels are taken: rows, ascending."""
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
