"""Short small excerpts of clips, clean and corrupted, for a page that shows them beside each other."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from squall.actors.cluster import enter_worker
from squall.actors.file_corruption import run_on_workers
from squall.algorithms.corruption import find_kind, parse_spec
from squall.algorithms.corruption.streaming import corrupt_stream
from squall.platform.decoding import fail, read_image
from squall.platform.errors import SquallError
from squall.platform.records import CorruptionSpec, MediaType
from squall.platform.streaming import Chunk, HeldFrames, crop_to_even, write_video
from squall.platform.video import IMAGE_FPS

SECONDS = 3.0
SIDE = 320
"""Longer side of an excerpt."""
MAX_FPS = 31.0
CRF = 25
STRIP = (3, 2)
"""Columns and rows of a still that shows frames over time, for kinds that rearrange them."""


@dataclass(frozen=True, slots=True)
class ExcerptTask:
    """Excerpts of one clip. Plain values alone: it travels as JSON."""

    number: int
    sample_id: str
    source: str
    media_type: str
    specs: tuple[str | None, ...]
    """Corruptions as `parse_spec` reads them; None for the clean clip."""
    outputs: tuple[str | None, ...]
    """Where the corrupted clip is already; otherwise the excerpt itself is corrupted."""
    import_path: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One excerpt as it goes into a page."""

    video: str
    """MP4, base64."""
    still: str
    """WebP, base64: the frame in the middle, or six over time where frames are lost or change places."""
    width: int
    height: int


def make_excerpts(tasks: Sequence[ExcerptTask], workers: int) -> Iterator[tuple[int, list[Excerpt] | str]]:
    """Yield the number of each task, in any order, and its excerpts or what is wrong with its clip."""
    texts = [json.dumps(asdict(task)) for task in tasks]
    for text in run_on_workers(_run_task, texts, workers, 1):
        number, excerpts, problem = json.loads(text)
        yield number, [Excerpt(**excerpt) for excerpt in excerpts] if problem is None else problem


def _run_task(text: str) -> str:
    task = ExcerptTask(**json.loads(text))
    enter_worker(task.import_path, 1)
    try:
        return json.dumps([task.number, [asdict(excerpt) for excerpt in excerpts_of(task)], None])
    except (SquallError, OSError, av.FFmpegError) as error:
        return json.dumps([task.number, [], f"{task.source}: {' '.join(str(error).split())}"])


def excerpts_of(task: ExcerptTask) -> Iterator[Excerpt]:
    """Excerpts from the middle of a clip. Raises DataError when it cannot be read or corrupted."""
    clean, start = _read(Path(task.source), task, None)
    for text, output in zip(task.specs, task.outputs, strict=True):
        spec = None if text is None else parse_spec(text)
        if spec is not None and output is not None:
            frames, times = _read(Path(output), task, start)[0]
        elif spec is not None:
            # The excerpt stands for a clip of its own, so a span that lies beyond it is left out.
            frames, times = _render(clean, _without_span(spec))
        else:
            frames, times = clean
        yield _encode(frames, times, start, spec)


def _read(file: Path, task: ExcerptTask, start: float | None) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Small frames and their times, in seconds from the start of the file, from `start` on; by default from the middle."""
    if not file.is_file():
        fail(file, task.sample_id, "missing_media", "the file does not exist")
    if task.media_type == MediaType.IMAGE:
        return (_small(read_image(file, task.sample_id))[None], np.zeros(1)), 0.0
    with av.open(str(file), metadata_errors="ignore") as container:
        if not container.streams.video:
            fail(file, task.sample_id, "decode_error", "no video stream; give a video file")
        stream = container.streams.video[0]
        stream.thread_count = 1
        first = float((stream.start_time or 0) * stream.time_base) if start is None else 0.0
        if start is None:
            duration = (container.duration or 0) / av.time_base  # a claim, good enough for where to look
            start = max(0.0, (duration - SECONDS) / 2)
        if start > 0:
            container.seek(int((start + first) * av.time_base))
        frames, times = [], []
        for frame in container.decode(stream):
            time = (frame.time or 0.0) - first
            if time < start and frames:
                frames, times = [], []  # the frame shown when the excerpt begins is the last one before it
            if frames and time >= start + SECONDS:
                break
            if not times or time - times[-1] >= 1 / MAX_FPS:
                frames.append(_small(frame.to_ndarray(format="rgb24")))
                times.append(time)
    if not frames:
        fail(file, task.sample_id, "decode_error", "no frame can be decoded; replace the file")
    return (np.stack(frames), np.maximum(times, start)), start


def _small(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    if size == (width, height):
        return frame
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def _render(clean: tuple[np.ndarray, np.ndarray], spec: CorruptionSpec) -> tuple[np.ndarray, np.ndarray]:
    frames, times = clean
    lasted = times[-1] - times[0]
    fps = (len(frames) - 1) / lasted if lasted > 0 else IMAGE_FPS
    chunks = list(corrupt_stream(HeldFrames(crop_to_even(frames), fps), spec).chunks())
    return np.concatenate([chunk.frames for chunk in chunks]), times[0] + np.concatenate([chunk.times for chunk in chunks])


def _encode(frames: np.ndarray, times: np.ndarray, start: float, spec: CorruptionSpec | None) -> Excerpt:
    shown = times - start
    fps = min(len(frames) / max(shown[-1], 1e-3), MAX_FPS) if len(frames) > 1 else IMAGE_FPS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "excerpt.mp4")
        with write_video(file, fps, clock_fps=1000.0, crf=CRF, preset="fast") as writer:
            writer.write(Chunk(frames, shown))
        video = file.read_bytes()
    still = io.BytesIO()
    Image.fromarray(_still(frames, shown, spec)).save(still, "WEBP", quality=78)
    height, width = frames.shape[1:3]
    return Excerpt(*(base64.b64encode(data).decode() for data in (video, still.getvalue())), width, height)


def _still(frames: np.ndarray, times: np.ndarray, spec: CorruptionSpec | None) -> np.ndarray:
    if spec is None or not any(find_kind(member.kind).rearranges for member in (spec, *spec.then)):
        return frames[len(frames) // 2]
    columns, rows = STRIP
    moments = np.linspace(0, max(times[-1], 1e-3), columns * rows, endpoint=False)
    on_screen = np.searchsorted(times, moments, side="right").clip(1) - 1
    height, width = frames.shape[1:3]
    gap = 2
    size = ((width - gap * (columns - 1)) // columns, (height - gap * (rows - 1)) // rows)
    sheet = np.full((height, width, 3), 255, np.uint8)
    for place, index in enumerate(on_screen):
        row, column = divmod(place, columns)
        top, left = row * (size[1] + gap), column * (size[0] + gap)
        if min(size) > 0:
            part = _fit(frames[index], size)
            sheet[top : top + size[1], left : left + size[0]] = part
    return sheet


def _fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a frame in the shape of (width, height)."""
    height, width = frame.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    enlarged = cv2.resize(frame, (max(size[0], round(width * scale)), max(size[1], round(height * scale))),
                          interpolation=cv2.INTER_AREA)
    top, left = (enlarged.shape[0] - size[1]) // 2, (enlarged.shape[1] - size[0]) // 2
    return enlarged[top : top + size[1], left : left + size[0]]


def _without_span(spec: CorruptionSpec) -> CorruptionSpec:
    return replace(spec, span=None, then=tuple(replace(member, span=None) for member in spec.then))
