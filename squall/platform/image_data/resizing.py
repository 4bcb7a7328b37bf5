"""Images brought to a square size."""

from __future__ import annotations

import numpy as np


def resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (N, H, W, C) with sides of `size`; the same array where that is None or what it has."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    return np.stack([resize_and_crop(image, size) for image in images])


def resize_and_crop(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """uint8 (H, W, C) to (height, width, C), by default a square: scaled until it covers that, and the centre is kept."""
    import cv2

    width = width or height
    scale = max(height / image.shape[0], width / image.shape[1])
    rows, columns = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    if (rows, columns) != image.shape[:2]:
        # Area averaging does not alias when images shrink, but is nearest neighbour when they grow.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (columns, rows), interpolation=method).reshape(rows, columns, -1)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(image[top:top + height, left:left + width])
