"""Images brought to a square size."""

from __future__ import annotations

import numpy as np


def resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (N, H, W, C) with sides of `size`; the same array where that is None or what it has."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    return np.stack([resize_and_crop(image, size) for image in images])


def resize_and_crop(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, C) to (size, size, C): the shorter side is resized to `size`, and the centre of the longer one is kept."""
    import cv2

    height, width = image.shape[:2]
    scale = size / min(height, width)
    rows, columns = max(size, round(height * scale)), max(size, round(width * scale))
    if (rows, columns) != (height, width):
        # Area averaging does not alias when images shrink, but is nearest neighbour when they grow.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (columns, rows), interpolation=method).reshape(rows, columns, -1)
    top, left = (rows - size) // 2, (columns - size) // 2
    return np.ascontiguousarray(image[top:top + size, left:left + size])
