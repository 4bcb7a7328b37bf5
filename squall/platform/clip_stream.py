"""Clips cut out of video files: at random for training, from the middle or from many places for measuring, decoded ahead."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from squall.platform.clip_data import ViewConfig
from squall.platform.clip_lists import ClipEntry
from squall.platform.decoding import fail, read_video
from squall.platform.image_data.resizing import resize_and_crop

Item = TypeVar("Item")
Result = TypeVar("Result")
CROP_TRIES = 10


@dataclass(frozen=True, slots=True)
class ClipSize:
    """Of the clips that are cut, and what a video must have at least."""

    frames: int
    height: int
    width: int
    tubelet: int = 1
    """Frames that a video must have."""
    patch: int = 1
    """Pixels that its sides must have."""


def training_clip(entry: ClipEntry, size: ClipSize, config: ViewConfig, seed: int) -> np.ndarray:
    """uint8 (T, H, W, 3): a random window of the video, one random cut for all of its frames, and a mirror, all by `seed`.

    Raises:
        DataError: it cannot be decoded, or is smaller than a token.
    """
    rng = np.random.default_rng(seed)
    place, mirrored = rng.random(), rng.random() < 0.5
    frames = _decode(entry, size, config.stride, lambda free: [int(place * (free + 1))])[0]
    top, left, height, width = random_cut(frames.shape[1:3], config, rng)
    scaled = _scaled(frames[:, top:top + height, left:left + width], size)
    return np.ascontiguousarray(scaled[:, :, ::-1] if mirrored and config.flip else scaled)


def held_clips(entry: ClipEntry, size: ClipSize, stride: int, clips: int = 1, crops: int = 1) -> np.ndarray:
    """uint8 (clips * crops, T, H, W, 3): windows spread evenly over the video, and of each, cuts along its longer side.

    One of each is the middle. Errors as of `training_clip`.
    """
    windows = _decode(entry, size, stride, lambda free: [(2 * i + 1) * free // (2 * clips) for i in range(clips)])
    return np.concatenate([_cuts(window, size, crops) for window in windows])


def window(count: int, frames: int, stride: int) -> tuple[int, int]:
    """Stride, and how many places a clip of `frames` can begin at beyond the first, in a video of `count` frames.

    Where the video is too short the stride is less, and 0 is an answer of a video with fewer frames than the clip.
    """
    step = min(stride, (count - 1) // max(1, frames - 1))
    return step, count - 1 - step * (frames - 1) if step else 0


def random_cut(shape: Sequence[int], config: ViewConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a cut: area and aspect at random (arXiv 1409.4842, section 6), or the middle."""
    rows, columns = shape
    for _ in range(CROP_TRIES):
        area = rows * columns * rng.uniform(*config.area)
        aspect = np.exp(rng.uniform(*np.log(config.aspect)))
        height, width = round(float(np.sqrt(area / aspect))), round(float(np.sqrt(area * aspect)))
        if 0 < height <= rows and 0 < width <= columns:
            return int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1)), height, width
    least, most = config.aspect
    height, width = min(rows, max(1, round(columns / least))), min(columns, max(1, round(rows * most)))
    return (rows - height) // 2, (columns - width) // 2, height, width


class Ahead(Generic[Item, Result]):
    """Work on threads for what will be asked next. Nothing runs before the first `take`."""

    def __init__(self, work: Callable[[Item], Result], threads: int) -> None:
        self._work, self._threads = work, threads
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[Hashable, list[Future[Result]]] = {}

    def take(self, key: Hashable, items: Callable[[], Iterable[Item]]) -> list[Result]:
        """Results of the items of `key`, in their order; raises what the work raised."""
        self.begin(key, items)
        return [future.result() for future in self._pending.pop(key)]

    def begin(self, key: Hashable, items: Callable[[], Iterable[Item]]) -> None:
        """Start on what `take` will be asked for; keys that were begun and are not asked for stay in memory."""
        if key not in self._pending:
            self._pool = self._pool or ThreadPoolExecutor(self._threads, thread_name_prefix="clips")
            self._pending[key] = [self._pool.submit(self._work, item) for item in items()]

    def close(self) -> None:
        """Stop, and forget what was begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool, self._pending = None, {}

    def __getstate__(self) -> dict[str, object]:
        return {"_work": self._work, "_threads": self._threads, "_pool": None, "_pending": {}}


def _decode(entry: ClipEntry, size: ClipSize, stride: int, firsts: Callable[[int], list[int]]) -> list[np.ndarray]:
    """Windows uint8 (T, rows, columns, 3); `firsts` gets how many places beyond the first there are to begin at."""
    file, wanted = Path(entry.path), []

    def choose(count: int, fps: float) -> list[int]:
        if count < size.tubelet:
            fail(file, entry.name, "too_few_frames", f"{count} frames, and a token has {size.tubelet}; leave the clip out")
        step, free = window(count, size.frames, stride)
        rows = np.arange(size.frames)
        offsets = step * rows if step else rows * (count - 1) // max(1, size.frames - 1)
        wanted.extend(first + offsets for first in firsts(free))
        return np.unique(np.concatenate(wanted)).tolist()

    if not file.is_file():
        fail(file, entry.name, "missing_media", "the clip is gone; check the list")
    video = read_video(file, choose, sample_id=entry.name, num_threads=1)
    rows, columns = video.frames.shape[1:3]
    if min(rows, columns) < size.patch:
        fail(file, entry.name, "too_small", f"frames of {rows}x{columns}, and a token has {size.patch}x{size.patch} pixels; "
                                            "leave the clip out")
    return [video.frames[np.searchsorted(video.indices, each)] for each in wanted[-len(firsts(0)):]]


def _scaled(frames: np.ndarray, size: ClipSize) -> np.ndarray:
    import cv2

    if frames.shape[1:3] == (size.height, size.width):
        return frames
    # Area averaging does not alias when frames shrink, but is nearest neighbour when they grow.
    method = cv2.INTER_AREA if size.height * size.width < frames.shape[1] * frames.shape[2] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (size.width, size.height), interpolation=method) for frame in frames])


def _cuts(frames: np.ndarray, size: ClipSize, crops: int) -> np.ndarray:
    """(crops, T, H, W, 3): cuts of frames scaled until they cover the size, from one end of the longer side to the other."""
    if crops == 1:
        return np.stack([resize_and_crop(frame, size.height, size.width) for frame in frames])[None]
    scale = max(size.height / frames.shape[1], size.width / frames.shape[2])
    rows, columns = max(size.height, round(frames.shape[1] * scale)), max(size.width, round(frames.shape[2] * scale))
    whole = _scaled(frames, ClipSize(size.frames, rows, columns))
    tops, lefts = (np.linspace(0, free, crops).round().astype(int) for free in (rows - size.height, columns - size.width))
    return np.stack([whole[:, top:top + size.height, left:left + size.width] for top, left in zip(tops, lefts, strict=True)])
