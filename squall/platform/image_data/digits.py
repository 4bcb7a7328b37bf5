"""scikit-learn's digits: 1,797 images of 8x8 pixels in 17 grey levels."""

from __future__ import annotations

import numpy as np

from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet, divide
from squall.platform.image_data.loading import Choose, Split
from squall.platform.image_data.resizing import resized

TEST_SEED = 42
TEST_IMAGES = 360
BRIGHTEST = 16


def read(config: ImageDataConfig, split: Split, choose: Choose) -> ImageSet:
    """The data set has no published split: a fifth of every class, by a fixed seed, is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    test, train = divide(labels, TEST_IMAGES, TEST_SEED)
    rows = test if split == "test" else train
    rows = rows[choose(labels[rows])]
    return ImageSet(resized(images[rows], config.size), labels[rows], tuple(map(str, range(10))), f"digits, {split}")
