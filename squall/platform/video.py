"""Video in and out: which frames are taken and at what size, clips decoded once and cached, H.264 encoding."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from squall.platform.config import Config
from squall.platform.decoding import Reader, fail, read_image, read_video
from squall.platform.errors import DataError
from squall.platform.records import Clip, MediaType, make_clip

MAX_ASPECT_RATIO = 200
"""Qwen's processors refuse longer frames."""
VIDEO_SUFFIXES = frozenset((".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"))
IMAGE_FPS = 1.0
CACHE_FORMAT = "squall-clip-1"


class FrameSampling(Config):
    """Which frames of a video are taken, and at what size."""

    max_frames: int = Field(default=16, ge=1)
    """Frames taken at most; exactly this many when `fps` is not set and the video has them."""
    min_frames: int = Field(default=1, ge=1)
    """Frames taken at least, whatever `fps` says; a video with fewer is refused."""
    fps: float | None = Field(default=None, gt=0)
    """Frames per second of the source's time, capped by `max_frames`; unset spreads `max_frames` over the video."""
    max_pixels: int = Field(default=128 * 28 * 28, ge=1)
    """Pixel budget of one frame, height x width."""
    size_multiple: int = Field(default=28, ge=1)
    """Both sides become multiples of this: patch size x merge size, 28 for Qwen2.5-VL and 32 for Qwen3-VL."""
    resize: tuple[int, int] | None = None
    """Exact (height, width) in place of the budget."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} exceeds max_frames {self.max_frames}")
        if self.max_pixels < self.size_multiple**2:
            raise ValueError(f"max_pixels {self.max_pixels} is less than one block of size_multiple squared, "
                             f"{self.size_multiple**2}")
        if self.resize and any(side < 1 or side % self.size_multiple for side in self.resize):
            raise ValueError(f"resize {self.resize} must be positive multiples of size_multiple {self.size_multiple}")
        return self


def load_clip(
    path: str | Path,
    sampling: FrameSampling,
    *,
    sample_id: str,
    media_type: MediaType = MediaType.VIDEO,
    num_threads: int = 1,
    reader: Reader = "auto",
) -> Clip:
    """Decode a video or image into a clip, uint8 (T, H, W, 3) RGB; an image gives T = 1.

    Args:
        num_threads: decoder threads; 0 lets the decoder take every core.
        reader: ``auto`` takes decord, and PyAV where decord is missing, fails, or disagrees with the container.

    Raises:
        DataError: one line with file, sample id and reason: ``missing_media``, ``decode_error``, ``too_few_frames`` or
            ``aspect_ratio``.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        fail(file, sample_id, "missing_media", f"media {what}; check 'path' in the manifest")
    if media_type is MediaType.IMAGE:
        frames = read_image(file, sample_id)[None]
        return make_clip(_resize(frames, sampling, file, sample_id), IMAGE_FPS, media_type=media_type)

    def choose(count: int, source_fps: float) -> list[int]:
        if count < sampling.min_frames:
            problem = f"{count} frames decode, min_frames is {sampling.min_frames}; lower it or leave the sample out"
            fail(file, sample_id, "too_few_frames", problem)
        return sample_indices(count, source_fps, sampling)

    video = read_video(file, choose, sample_id=sample_id, num_threads=num_threads, reader=reader)
    # Segment centres are count / taken source frames apart, to within the rounding to whole frames.
    fps = video.fps * len(video.indices) / video.count
    return make_clip(_resize(video.frames, sampling, file, sample_id), fps, video.indices, video.fps, media_type)


def sample_indices(count: int, source_fps: float, sampling: FrameSampling) -> list[int]:
    """Centres of equal segments of a video of `count` frames; `fps`, `min_frames`, `max_frames` say how many."""
    wanted = sampling.max_frames
    if sampling.fps is not None:
        wanted = min(wanted, max(sampling.min_frames, round(count / source_fps * sampling.fps)))
    taken = max(1, min(wanted, count))
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def fit_size(height: int, width: int, sampling: FrameSampling) -> tuple[int, int]:
    """Size of a frame after resizing, as Qwen's smart resize has it, so that the model's processor resizes nothing.

    The aspect ratio is kept as closely as multiples of `size_multiple` and an area of at most `max_pixels` allow.
    """
    if sampling.resize:
        return sampling.resize
    block, budget = sampling.size_multiple, sampling.max_pixels
    rows, columns = max(1, round(height / block)), max(1, round(width / block))
    if rows * columns * block**2 > budget:
        shrink = math.sqrt(height * width / budget)
        rows, columns = (max(1, math.floor(side / shrink / block)) for side in (height, width))
        # A side held up at one block would break the budget on very long frames.
        blocks = budget // block**2
        rows, columns = min(rows, blocks // columns or 1), min(columns, blocks // rows or 1)
    return rows * block, columns * block


def token_count(height: int, width: int, frames: int, patch: int = 14, merge: int = 2, temporal: int = 2) -> int:
    """Vision tokens of a clip in Qwen2.5-VL: one per merged patch of every `temporal` frames, the last ones padded.

    Raises:
        ValueError: a side is not a multiple of patch x merge, so that the processor would resize.
    """
    block = patch * merge
    if height % block or width % block:
        raise ValueError(f"frame of {height}x{width} is not in multiples of {block}; resize it first (fit_size)")
    return math.ceil(frames / temporal) * (height // block) * (width // block)


def encode_video(path: str | Path, frames: np.ndarray, fps: float, crf: int = 18, *, num_threads: int = 1) -> None:
    """Write uint8 frames (T, H, W, 3) RGB as H.264 yuv420p in an MP4 file, replacing the file in one piece. The same frames
    give the same bytes.

    Raises:
        DataError: no frames, another dtype or shape, an odd height or width, or a rate that is not positive.
    """
    import av

    file = Path(path)
    problem = encoding_problem(frames, fps)
    if problem:
        raise DataError(f"{file}: cannot encode: {problem}", reason="encode_error")
    with replacing(file) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(10_000)
        stream = add_h264_stream(container, frames.shape[1:3], rate, crf, "medium", num_threads)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def add_h264_stream(container: Any, size: tuple[int, int], rate: Fraction, crf: int, preset: str, num_threads: int) -> Any:
    """Add an H.264 yuv420p stream of (height, width) to a PyAV container; its pixels are marked as what they are, BT.601."""
    from av.video.reformatter import ColorRange, Colorspace

    # without the last option x264's look ahead (mbtree) gives the same small frames other bytes now and then
    options = {"crf": str(crf), "preset": preset, "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
    stream.thread_count = num_threads
    return stream


class ClipCache:
    """Clips decoded once: uint8 in safetensors files that several processes may share, the latest also in memory.

    A file that changed (time or size), another sampling or a damaged cache file leads to a new decode.
    """

    def __init__(self, directory: str | Path | None, max_bytes: int, memory_bytes: int = 256 * 2**20) -> None:
        """Clips are kept in `directory` (None: in memory alone), oldest use deleted first beyond about `max_bytes`."""
        self._directory = Path(directory) if directory is not None else None
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._memory: OrderedDict[str, Clip] = OrderedDict()
        self._held_bytes = 0
        self._bytes_until_trim = 0
        self.hits = 0
        """Clips served without decoding."""
        self.misses = 0
        """Clips that were decoded."""
        if self._directory:
            self._directory.mkdir(parents=True, exist_ok=True)

    def load(
        self,
        path: str | Path,
        sampling: FrameSampling,
        *,
        sample_id: str,
        media_type: MediaType = MediaType.VIDEO,
        num_threads: int = 1,
    ) -> Clip:
        """As `load_clip`; the frames are read-only."""
        key = _cache_key(Path(path), sampling, media_type)
        clip = self._memory.get(key) if key else None
        if clip is None and key and self._directory:
            clip = _read_cached(self._directory / f"{key}.safetensors")
        if clip is None:
            clip = load_clip(path, sampling, sample_id=sample_id, media_type=media_type, num_threads=num_threads)
            self.misses += 1
            if key and self._directory:
                self._write(self._directory / f"{key}.safetensors", clip)
        else:
            self.hits += 1
        clip.frames.flags.writeable = False
        if key:
            self._remember(key, clip)
        return clip

    def _remember(self, key: str, clip: Clip) -> None:
        if key not in self._memory:
            self._memory[key] = clip
            self._held_bytes += clip.frames.nbytes
        self._memory.move_to_end(key)
        while self._held_bytes > self._memory_bytes:
            self._held_bytes -= self._memory.popitem(last=False)[1].frames.nbytes

    def _write(self, file: Path, clip: Clip) -> None:
        from safetensors.numpy import save_file

        header = {"fps": clip.fps, "source_fps": clip.source_fps, "source_indices": clip.source_indices,
                  "content_hash": clip.content_hash, "media_type": clip.media_type}
        with replacing(file) as temporary:
            save_file({"frames": clip.frames}, temporary, metadata={"clip": json.dumps(header)})
        self._bytes_until_trim -= clip.frames.nbytes
        if self._bytes_until_trim <= 0:
            self._trim()

    def _trim(self) -> None:
        """Delete the clips used longest ago. Runs at few of the writes: listing a large folder is slow."""
        entries = []
        for file in self._directory.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process trims the same folder
                status = file.stat()
                entries.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in entries)
        for _, size, file in sorted(entries):
            if total <= self._max_bytes:
                break
            file.unlink(missing_ok=True)
            total -= size
        self._bytes_until_trim = max((self._max_bytes - total) // 4, self._max_bytes // 64)


def _cache_key(path: Path, sampling: FrameSampling, media_type: MediaType) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None  # load_clip says what is wrong
    source = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    parts = (CACHE_FORMAT, *source, str(media_type), sampling.model_dump_json())
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _read_cached(file: Path) -> Clip | None:
    """The cached clip, or None where there is none or its bytes are not those that were written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            header = json.loads(tensors.metadata()["clip"])
            frames = tensors.get_tensor("frames")
        os.utime(file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    clip = make_clip(frames, header["fps"], tuple(header["source_indices"]), header["source_fps"],
                     MediaType(header["media_type"]))
    return clip if clip.content_hash == header["content_hash"] else None


def _resize(frames: np.ndarray, sampling: FrameSampling, file: Path, sample_id: str) -> np.ndarray:
    import cv2

    height, width = fit_size(*frames.shape[1:3], sampling)
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        fail(file, sample_id, "aspect_ratio",
             f"frames of {frames.shape[1]}x{frames.shape[2]} are longer than {MAX_ASPECT_RATIO}:1; crop the media")
    if (height, width) == frames.shape[1:3]:
        return np.ascontiguousarray(frames)
    # Area averaging does not alias when frames shrink, but is nearest neighbour when they grow.
    shrinks = height * width < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (width, height), interpolation=method) for frame in frames])


def encoding_problem(frames: np.ndarray, fps: float) -> str | None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        return f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}"
    if not len(frames):
        return "there are no frames; give at least one"
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        return f"yuv420p needs an even height and width, got {height}x{width}; crop or pad by one pixel"
    if not (math.isfinite(fps) and fps > 0):
        return f"fps must be a positive number, got {fps}"
    return None


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A neighbouring name to write to; it takes the place of `file` when all went well and is deleted when not."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
