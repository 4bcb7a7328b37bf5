"""Frames out of video and image files, and a plain reason where a file gives none.

decord (the maintained package is decord2) reads; PyAV reads what decord cannot and says what is wrong with a file.
Both are imported when first used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

import numpy as np

from squall.platform.errors import DataError

Reader = Literal["auto", "decord", "pyav"]
Choose = Callable[[int, float], list[int]]
"""From frame count and frames per second to the ascending indices of the frames to take."""


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Some frames of a video, and what they were taken from."""

    frames: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    indices: tuple[int, ...]
    count: int
    """Frames in the whole video."""
    fps: float
    """Frames per second of the whole video."""


def read_video(
    file: Path, choose: Choose, *, sample_id: str, num_threads: int, reader: Reader = "auto"
) -> DecodedVideo:
    """Decode the frames that `choose` asks for.

    Args:
        num_threads: decoder threads; 0 lets the decoder take every core.
        reader: ``auto`` takes decord, and PyAV where decord is missing, fails, or disagrees with the container.

    Raises:
        DataError: one line with file, sample id and reason ``decode_error``; and whatever `choose` raises.
    """
    claimed_count = _probe(file, sample_id)
    decord = _decord() if reader != "pyav" else None
    if decord is None and reader == "decord":
        fail(file, sample_id, "decode_error", "decord is not installed; install decord2 or use reader 'auto'")
    if decord is not None:
        try:
            return _read_with_decord(decord, file, choose, num_threads, claimed_count)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            if reader == "decord":
                fail(file, sample_id, "decode_error", f"decord cannot decode it: {_first_line(error)}")
    return _read_with_pyav(file, choose, sample_id, num_threads)


def read_image(file: Path, sample_id: str) -> np.ndarray:
    """Decode an image to uint8 (H, W, 3) RGB, EXIF orientation applied. Raises DataError ``decode_error``."""
    import cv2

    data = np.fromfile(file, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        image = None
    if image is None:
        fail(file, sample_id, "decode_error", "not a readable image; replace the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a container says of its video, which may not be so."""

    rate: Fraction
    """Frames per second, on average."""
    tick_s: float
    """Seconds to which it rounds times."""
    pixel_aspect: Fraction | None
    """Width of a pixel by its height, where it is not square."""
    frames: float
    """How many there may be; 0 where it does not say."""


def video_facts(file: Path, sample_id: str) -> VideoFacts:
    """Read the head of a video. Raises DataError ``decode_error``."""
    import av

    _probe(file, sample_id)
    with av.open(str(file), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        rate, aspect = stream.average_rate or stream.guessed_rate, stream.codec_context.sample_aspect_ratio
        tick_s = float(stream.time_base or 0)
        frames = stream.frames or (container.duration or 0) / av.time_base * (rate or 0)
    if not rate:
        fail(file, sample_id, "decode_error", "the file states no frame rate; encode it again with one")
    return VideoFacts(Fraction(rate), tick_s, Fraction(aspect) if aspect and aspect != 1 else None, float(frames))


def decode_frames(file: Path, sample_id: str, num_threads: int) -> Iterator[Any]:
    """Yield PyAV's frames one by one, in the order shown. Raises DataError ``decode_error`` where decoding breaks off."""
    import av

    try:
        yield from _decoded(file, num_threads)
    except (av.FFmpegError, OSError) as error:
        fail(file, sample_id, "decode_error", f"decoding broke off ({_first_line(error)}); replace the file")


def fail(file: Path, sample_id: str, reason: str, problem: str) -> NoReturn:
    """Raise the one-line DataError of a media file."""
    raise DataError(f"{file}: sample {sample_id}: {problem}", sample_id=sample_id, reason=reason)


def _probe(file: Path, sample_id: str) -> int:
    """Frame count that the container claims, 0 where it claims none. decord's own errors do not say what is wrong."""
    import av

    try:
        with av.open(str(file), metadata_errors="ignore") as container:
            if container.streams.video:
                return container.streams.video[0].frames
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no stream at all"
    except (av.FFmpegError, OSError) as error:
        fail(file, sample_id, "decode_error", f"not a readable video ({_first_line(error)}); replace the file")
    fail(file, sample_id, "decode_error", f"no video stream (it holds {kinds}); give a video file")


def _read_with_decord(
    decord: ModuleType, file: Path, choose: Choose, num_threads: int, claimed_count: int
) -> DecodedVideo:
    video = decord.VideoReader(str(file), num_threads=num_threads)
    count, fps = len(video), float(video.get_avg_fps())
    if claimed_count and count != claimed_count:
        # decord counts packets without decoding them: a file cut in the middle would pass for a shorter video.
        raise RuntimeError(f"{count} frames found, the container claims {claimed_count}")
    if not (math.isfinite(fps) and fps > 0):
        raise RuntimeError("no frame rate")
    indices = choose(count, fps)
    return DecodedVideo(video.get_batch(indices).asnumpy(), tuple(indices), count, fps)


def _read_with_pyav(file: Path, choose: Choose, sample_id: str, num_threads: int) -> DecodedVideo:
    """Decode twice, first to count and then to convert, so that memory holds only the frames that are taken."""
    import av

    try:
        count = sum(1 for _ in _decoded(file, num_threads))
        fps = _frame_rate(file)
        if not count:
            fail(file, sample_id, "decode_error", "no frame can be decoded; replace the file")
        if not fps:
            fail(file, sample_id, "decode_error", "the file states no frame rate; encode it again with one")
        indices = choose(count, fps)
        wanted = set(indices)
        decoded = enumerate(_decoded(file, num_threads))
        frames = [frame.to_ndarray(format="rgb24") for index, frame in decoded if index in wanted]
        return DecodedVideo(np.stack(frames), tuple(indices), count, fps)
    except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: the frame size changes within the file
        fail(file, sample_id, "decode_error", f"decoding broke off ({_first_line(error)}); replace the file")


def _decoded(file: Path, num_threads: int) -> Iterator[Any]:
    import av

    with av.open(str(file), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = num_threads
        yield from container.decode(stream)


def _frame_rate(file: Path) -> float:
    import av

    with av.open(str(file), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        return float(stream.average_rate or stream.guessed_rate or 0)


@cache
def _decord() -> ModuleType | None:
    """The maintained decord, or None. decord, eva-decord and decord2 share the import name; only the version tells."""
    try:
        import decord
    except ImportError:
        return None
    if int(decord.__version__.split(".")[0]) < 1:
        warnings.warn(
            f"decord {decord.__version__} is not the maintained package and leaks memory; PyAV reads instead. "
            "To mend it: pip uninstall decord eva-decord; pip install decord2", RuntimeWarning, stacklevel=2)
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)  # PyAV's whole text repeats the file's name
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
