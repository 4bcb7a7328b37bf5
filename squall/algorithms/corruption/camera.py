"""The camera moves though it should not."""

from __future__ import annotations

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption

_WAVES = 3
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


@corruption(
    "camera",
    translation=Parameter(lambda s: 0.12 * s, 0, 1),
    rotation_deg=Parameter(lambda s: 8 * s, 0, 180),
    zoom=Parameter(lambda s: 0.1 * s, 0, 0.5),
)
def shake(
    frames: np.ndarray, rng: np.random.Generator, *, translation: float, rotation_deg: float, zoom: float
) -> None:
    """Hand-held shake along one smooth path. Each parameter is the largest excursion; what moves in is mirrored."""
    height, width = frames.shape[1:3]
    unit = min(height, width)
    path = _smooth_path(rng, len(frames)) * (translation * unit, translation * unit, rotation_deg, zoom)
    for frame, (dx, dy, angle, enlargement) in zip(frames, path, strict=True):
        source = _source_matrix((width - 1) / 2, (height - 1) / 2, dx, dy, angle, 1 + enlargement)
        frame[:] = cv2.warpAffine(frame, source, (width, height), flags=_FLAGS, borderMode=cv2.BORDER_REFLECT_101)


def _source_matrix(center_x: float, center_y: float, dx: float, dy: float, angle_deg: float, zoom: float) -> np.ndarray:
    """(2, 3): where in the source each pixel comes from, in multiples of 1/256.

    With those, OpenCV's float32 interpolation is exact (8 + 8 + 8 bits), so that pixels do not depend on whether the
    processor fuses multiply and add.
    """
    turn = np.deg2rad(angle_deg)
    linear = _dyadic(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom)
    center = np.array([center_x, center_y])
    offset = _dyadic(center - linear @ (center + (dx, dy)))
    return np.column_stack([linear, offset])


def _dyadic(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 256) / 256


def _smooth_path(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) in [-1, 1]: for each axis a sum of waves with periods of 5 to 50 frames, the slow ones larger."""
    frequency = rng.uniform(0.02, 0.2, (_WAVES, 4))
    phase = rng.uniform(0, 2 * np.pi, (_WAVES, 4))
    amplitude = 1 / (frequency + 0.05)
    amplitude /= amplitude.sum(axis=0)
    time = np.arange(count)[:, None, None]
    return (amplitude * np.sin(2 * np.pi * frequency * time + phase)).sum(axis=1)
