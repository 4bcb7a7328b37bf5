"""Videos a chunk of frames at a time: read, written and hashed in bounded memory, with every frame's own time."""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from squall.platform.decoding import decode_frames, fail, video_facts
from squall.platform.errors import DataError
from squall.platform.video import add_h264_stream, encoding_problem, replacing

CHUNK_BYTES = 32 * 2**20
"""Of one chunk of frames."""
MAX_CHUNK = 64
"""Frames of one chunk."""
MIN_TICKS_PER_S = 10_000
"""Resolution of the times in a file that is written."""


class Stopwatch:
    """Seconds spent in named stages: ``with watch("decode"): ...``. Stages do not nest."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring frames and when they are shown."""

    frames: np.ndarray
    """uint8 (n, H, W, 3), RGB."""
    times: np.ndarray
    """float64 (n,): seconds from the start of the video, ascending."""


class FrameSource(Protocol):
    """Frames that can be gone through as often as needed, never all of them at once."""

    @property
    def fps(self) -> float: ...

    def times(self) -> np.ndarray:
        """float64 (T,): when each frame is shown, in seconds. May take a pass over the frames."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """All frames in order, from the first one at every call."""
        ...


@dataclass(frozen=True, slots=True)
class HeldFrames:
    """Frames in memory as a source: uint8 (T, H, W, 3), at a constant rate."""

    frames: np.ndarray
    fps: float

    def times(self) -> np.ndarray:
        return np.arange(len(self.frames)) / self.fps

    def chunks(self) -> Iterator[Chunk]:
        size = frames_per_chunk(self.frames[0].nbytes)
        for first in range(0, len(self.frames), size):
            part = self.frames[first : first + size]
            yield Chunk(part, np.arange(first, first + len(part)) / self.fps)


class VideoFile:
    """A video file as a source, decoded anew at every pass. Frames are counted by decoding them: containers only claim.

    Odd sides lose their last row or column, because H.264 as every player reads it (yuv420p) needs even ones.
    """

    def __init__(self, file: Path, *, sample_id: str, num_threads: int = 1, watch: Stopwatch | None = None) -> None:
        """Open the file. Raises DataError ``missing_media`` or ``decode_error``; so do all passes over it."""
        if not file.is_file():
            what = "is a folder, not a file" if file.is_dir() else "does not exist"
            fail(file, sample_id, "missing_media", f"media {what}; check its path")
        self._file, self._sample_id, self._threads = file, sample_id, num_threads
        self._watch = watch or Stopwatch()
        self._times: np.ndarray | None = None
        facts = video_facts(file, sample_id)
        self.fps, self.pixel_aspect, self.claimed_frames = float(facts.rate), facts.pixel_aspect, facts.frames
        self._rate, self._tick_s = facts.rate, facts.tick_s

    def times(self) -> np.ndarray:
        if self._times is None:
            clock = _Clock(self._rate, self._tick_s)
            with self._watch("decode"):
                self._times = np.array([clock(frame.time) for frame in self._decoded()])
        return self._times

    def chunks(self) -> Iterator[Chunk]:
        clock, decoded = _Clock(self._rate, self._tick_s), self._decoded()
        frames: list[np.ndarray] = []
        times: list[float] = []
        while True:
            with self._watch("decode"):
                frame = next(decoded, None)
                if frame is not None:
                    frames.append(self._pixels(frame, frames[0].shape if frames else None))
                    times.append(clock(frame.time))
                full = frames and (frame is None or len(frames) >= frames_per_chunk(frames[0].nbytes))
                chunk = Chunk(np.stack(frames), np.array(times)) if full else None
            if chunk is not None:
                yield chunk
                frames, times = [], []
            if frame is None:
                return

    def _decoded(self) -> Iterator[object]:
        found, shape = 0, None
        for frame in decode_frames(self._file, self._sample_id, self._threads):
            size = (frame.height, frame.width)
            if shape not in (None, size):
                fail(self._file, self._sample_id, "decode_error", f"frame {found} is {size[1]}x{size[0]}, those before are "
                     f"{shape[1]}x{shape[0]}; encode it again at one size")
            found, shape = found + 1, size
            yield frame
        if not found:
            fail(self._file, self._sample_id, "decode_error", "no frame can be decoded; replace the file")

    def _pixels(self, frame: object, like: tuple[int, ...] | None) -> np.ndarray:
        pixels = crop_to_even(frame.to_ndarray(format="rgb24"))
        if like is None and 0 in pixels.shape:
            fail(self._file, self._sample_id, "encode_error",
                 f"frames of {frame.width}x{frame.height} are too small for H.264; give 2x2 or more")
        return pixels


class _Clock:
    """From each frame's stamp to its time: ascending from 0, and exact where the rate is constant."""

    def __init__(self, rate: Fraction, tick_s: float) -> None:
        self._rate, self._tick_s = rate, tick_s
        self._start: float | None = None
        self._index, self._last = 0, -math.inf

    def __call__(self, stamp: float | None) -> float:
        nominal = float(self._index / self._rate)
        if self._start is None and stamp is not None:
            self._start = stamp - nominal
        shown = nominal if stamp is None else stamp - self._start
        if abs(shown - nominal) <= self._tick_s:  # containers round times, Matroska to a millisecond
            shown = nominal
        self._index, self._last = self._index + 1, max(shown, self._last + self._tick_s)
        return self._last


class VideoWriter:
    """Writes chunks as H.264 in an MP4 file, each frame at its own time. Made by `write_video`."""

    def __init__(self, container: object, fps: float, clock_fps: float, crf: int, preset: str, num_threads: int,
                 pixel_aspect: Fraction | None, watch: Stopwatch) -> None:
        rate, clock = (Fraction(value).limit_denominator(10_000) for value in (fps, clock_fps))
        self._container, self._settings = container, (rate, crf, preset, num_threads, pixel_aspect)
        self._tick = Fraction(1, clock.numerator * -(-MIN_TICKS_PER_S // clock.numerator))
        self._stream, self._last, self._watch = None, -1, watch
        self._hash = FrameHash(fps)
        self.frames = 0
        """Frames written."""

    @property
    def content_hash(self) -> str:
        """Of the frames written, before encoding: see `FrameHash`."""
        return self._hash.hexdigest()

    def write(self, chunk: Chunk) -> None:
        """Append a chunk. Raises DataError when its frames cannot be encoded, OSError when the disk is full."""
        import av

        with self._watch("hash"):
            self._hash.update(chunk.frames)
        with self._watch("encode"):
            if self._stream is None:
                self._open(chunk.frames)
            for pixels, seconds in zip(chunk.frames, chunk.times, strict=True):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                self._last = max(round(Fraction(float(seconds)) / self._tick), self._last + 1)
                frame.pts, frame.time_base = self._last, self._tick
                self._container.mux(self._stream.encode(frame))
            self.frames += len(chunk.frames)

    def close(self) -> None:
        """Write what the encoder still holds."""
        with self._watch("encode"):
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))

    def _open(self, frames: np.ndarray) -> None:
        rate, crf, preset, num_threads, pixel_aspect = self._settings
        if problem := encoding_problem(frames, float(rate)):
            raise DataError(f"cannot encode: {problem}", reason="encode_error")
        self._stream = add_h264_stream(self._container, frames.shape[1:3], rate, crf, preset, num_threads)
        self._stream.codec_context.time_base = self._stream.time_base = self._tick
        if pixel_aspect:
            self._stream.codec_context.sample_aspect_ratio = pixel_aspect


@contextmanager
def write_video(file: Path, fps: float, *, clock_fps: float | None = None, crf: int = 18, preset: str = "medium",
                num_threads: int = 1, pixel_aspect: Fraction | None = None,
                watch: Stopwatch | None = None) -> Iterator[VideoWriter]:
    """Write a video chunk by chunk; it takes its name once it is whole, and leaves nothing when it does not get there.

    Args:
        fps: the average rate.
        clock_fps: the rate whose frames' times are stored exactly; by default `fps`. A video that lost frames keeps the clock
            of the one that it came from.
        pixel_aspect: width of a pixel by its height, where it is not square.
    """
    import av

    watch = watch or Stopwatch()
    with replacing(file) as temporary:
        container = av.open(str(temporary), "w", format="mp4")
        try:
            writer = VideoWriter(container, fps, clock_fps or fps, crf, preset, num_threads, pixel_aspect, watch)
            yield writer
            writer.close()
        finally:
            with watch("encode"):
                container.close()


class FrameHash:
    """Content hash of frames that come bit by bit: BLAKE2b over their bytes, then over shape, dtype and rate."""

    def __init__(self, fps: float) -> None:
        self._digest, self._fps = hashlib.blake2b(digest_size=16), fps
        self._count, self._frame = 0, ""

    def update(self, frames: np.ndarray) -> None:
        """Add frames (n, H, W, 3)."""
        self._digest.update(np.ascontiguousarray(frames).data)
        self._count, self._frame = self._count + len(frames), f"{frames.shape[1:]}|{frames.dtype}"

    def hexdigest(self) -> str:
        """32 hex digits; the same however the frames were split up."""
        whole = self._digest.copy()
        whole.update(f"{self._count}|{self._frame}|{self._fps!r}".encode())
        return whole.hexdigest()


def crop_to_even(frames: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3) without the last row or column where their number is odd."""
    height, width = frames.shape[-3:-1]
    return frames[..., : height - height % 2, : width - width % 2, :]


def frames_per_chunk(frame_bytes: int) -> int:
    """How many frames of this size make a chunk."""
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // frame_bytes))


def hash_file(file: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
