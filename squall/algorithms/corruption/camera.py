"""The camera moves though it should not: along smooth paths that are functions of time."""

from __future__ import annotations

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_WAVES = 4
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_DRIFT_HZ = (0.15, 0.9)
_ZOOM_HZ = (0.3, 1.8)
_DOUBLINGS = 4


@corruption("camera", translation=Parameter(lambda x: 0.35 * x, 0, 2))
def translation(frames: np.ndarray, timeline: Timeline, *, translation: float) -> None:
    """The camera pans and tilts to and fro, by up to `translation` shorter sides each way; what moves in is mirrored."""
    _move(frames, _path(timeline, _DRIFT_HZ) * (translation, translation, 0, 0))


@corruption("camera", zoom=Parameter(lambda x: 0.85 * x, 0, 4))
def zoom(frames: np.ndarray, timeline: Timeline, *, zoom: float) -> None:
    """The camera zooms in and out, by up to the factor 1 + `zoom` and 1 / (1 + `zoom`)."""
    _move(frames, _path(timeline, _ZOOM_HZ) * (0, 0, 0, zoom))


@corruption("camera", rotation_deg=Parameter(lambda x: 55 * x, 0, 180))
def rotation(frames: np.ndarray, timeline: Timeline, *, rotation_deg: float) -> None:
    """The camera rolls about its axis, by up to `rotation_deg` degrees each way."""
    _move(frames, _path(timeline, _DRIFT_HZ) * (0, 0, rotation_deg, 0))


@corruption(
    "camera",
    translation=Parameter(lambda x: 0.12 * x, 0, 2),
    rotation_deg=Parameter(lambda x: 8 * x, 0, 180),
    zoom=Parameter(lambda x: 0.08 * x, 0, 4),
    smoothness=Parameter(lambda x: 0.5, 0, 1),
)
def shake(frames: np.ndarray, timeline: Timeline, *, translation: float, rotation_deg: float, zoom: float,
          smoothness: float) -> None:
    """A hand-held camera on the move: shift, roll and zoom along one smooth path of 0.4 to 6 Hz.

    Each size is the largest excursion. `smoothness` 1 leaves the slow sway alone, 0 gives the fast tremor as much.
    """
    slow, fast = _path(timeline, (0.4, 1.6)), _path(timeline, (2.0, 6.0), salt=1)
    weight = 0.5 * (1 - smoothness)
    _move(frames, ((1 - weight) * slow + weight * fast) * (translation, translation, rotation_deg, zoom))


@corruption("camera", measure="pixels", length=Parameter(lambda x: 0.16 * x, 0, 1))
def motion_blur(frames: np.ndarray, timeline: Timeline, *, length: float) -> None:
    """The camera moves while the shutter is open: a streak of up to `length` shorter sides, its direction turning slowly.

    Sixteen copies are averaged two by two, each step over twice the distance of the one before.
    """
    height, width = frames.shape[1:3]
    path = _path(timeline, (0.2, 1.0))
    reach = length * min(height, width) * (0.75 + 0.25 * path[:, 2])
    angle = np.pi * path[:, 0]
    offsets = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)
    margin = int(np.ceil(np.abs(offsets).max(initial=0))) + 1
    for frame, (dx, dy) in zip(frames, offsets, strict=True):
        wide = cv2.copyMakeBorder(frame, margin, margin, margin, margin, cv2.BORDER_REFLECT)
        for step in range(_DOUBLINGS):
            part = 2.0 ** (step - _DOUBLINGS)
            wide = _average(wide, round(dx * part), round(dy * part))
        y, x = (wide.shape[0] - height) // 2, (wide.shape[1] - width) // 2
        frame[:] = wide[y : y + height, x : x + width]


def _average(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Mean of an image and itself moved by (dx, dy), where both have pixels."""
    height, width = image.shape[:2]
    one = image[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    other = image[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return cv2.addWeighted(one, 0.5, other, 0.5, 0)


def _move(frames: np.ndarray, path: np.ndarray) -> None:
    """Warp each frame by its (x, y, degrees, zoom) of a path (n, 4), lengths in shorter sides."""
    height, width = frames.shape[1:3]
    unit = min(height, width)
    for frame, (dx, dy, angle, enlargement) in zip(frames, path, strict=True):
        factor = (1 + enlargement) if enlargement >= 0 else 1 / (1 - enlargement)
        source = source_matrix((width - 1) / 2, (height - 1) / 2, dx * unit, dy * unit, angle, factor)
        frame[:] = cv2.warpAffine(frame, source, (width, height), flags=_FLAGS, borderMode=cv2.BORDER_REFLECT_101)


def source_matrix(center_x: float, center_y: float, dx: float, dy: float, angle_deg: float, zoom: float) -> np.ndarray:
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


def _path(timeline: Timeline, hertz: tuple[float, float], salt: int = 0) -> np.ndarray:
    """(n, 4) in [-1, 1]: for each axis a sum of waves in a band of frequencies, the slow ones larger."""
    rng = timeline.rng()
    rng.random(salt * 64)
    frequency = np.exp(rng.uniform(*np.log(hertz), (_WAVES, 4)))
    phase = rng.uniform(0, 2 * np.pi, (_WAVES, 4))
    amplitude = 1 / frequency
    amplitude /= amplitude.sum(axis=0)
    return (amplitude * np.sin(2 * np.pi * frequency * timeline.seconds[:, None, None] + phase)).sum(axis=1)
