"""One file of a corrupted data set: decode, corrupt, encode. Many of them on the cluster, with Ray Data."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import ray
import ray.data

from squall.actors.cluster import enter_worker
from squall.algorithms.corruption import parse_spec, render
from squall.algorithms.corruption.streaming import corrupt_stream
from squall.platform.decoding import fail, read_image
from squall.platform.errors import FULL_DISK, SquallError
from squall.platform.records import CorruptionSpec, MediaType
from squall.platform.streaming import (
    FrameHash,
    FrameSource,
    HeldFrames,
    Stopwatch,
    VideoFile,
    crop_to_even,
    hash_file,
    write_video,
)
from squall.platform.video import IMAGE_FPS, FrameSampling, load_clip, replacing

Status = Literal["done", "failed", "full_disk"]


@dataclass(frozen=True, slots=True)
class FileTask:
    """One clip under one corruption. Plain values alone: it travels as JSON."""

    number: int
    """Position in the data set."""
    sample_id: str
    source: str
    media_type: str
    output: str
    spec: str | None
    """As `parse_spec` reads it; None encodes the clip as it is."""
    frames: dict[str, Any] | None
    """Values of a `FrameSampling`; None takes every frame at its own size."""
    crf: int
    preset: str
    threads: int
    held_mib: int
    import_path: str
    """Folder that user kinds are imported from."""
    decode_back: bool = False
    """Decode the new file once more and hash what a reader of it sees."""


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of a task."""

    number: int
    status: Status
    facts: dict[str, Any]
    """Of the file: ``source_sha256, sha256, content_hash, bytes, fps, frames, width, height`` and, where it was decoded back,
    ``decoded_hash``; empty where there is none."""
    seconds: dict[str, float]
    """By stage: ``decode, corrupt, encode, hash``."""
    reason: str = ""
    message: str = ""


OnShare = Callable[[float], None]
"""Is told now and then how much of a file is done, in [0, 1]."""
SHARE_INTERVAL_S = 0.5


def corrupt_file(task: FileTask, on_share: OnShare = lambda share: None) -> FileOutcome:
    """Write one corrupted file. What goes wrong with it is in the outcome."""
    watch = Stopwatch()
    try:
        facts = _write(task, watch, on_share)
    except SquallError as error:
        message = str(error)
        if task.source not in message:
            message = f"{task.source}: sample {task.sample_id}: {message}"
        reason = getattr(error, "reason", "corruption_error")
        return FileOutcome(task.number, "failed", {}, dict(watch.seconds), reason, message)
    except (OSError, av.FFmpegError) as error:
        if error.errno in FULL_DISK:
            message = f"no room on the disk for {task.output} ({error.strerror})"
            return FileOutcome(task.number, "full_disk", {}, dict(watch.seconds), "full_disk", message)
        message = f"{task.source}: sample {task.sample_id}: cannot be read or written ({type(error).__name__}: {error})"
        return FileOutcome(task.number, "failed", {}, dict(watch.seconds), "os_error", " ".join(message.split()))
    return FileOutcome(task.number, "done", facts, dict(watch.seconds))


def corrupt_files(tasks: Sequence[FileTask], workers: int, on_share: Callable[[int, float], None]) -> Iterator[FileOutcome]:
    """Run tasks on the cluster and yield their outcomes as they come, in any order.

    A worker that dies is replaced and its task tried again, three times; a task that no worker survives has no outcome.

    Args:
        workers: tasks that run at the same time; each reserves as many CPUs as it has threads.
        on_share: is told now and then, from another thread, the number of a task and how much of it is done, in [0, 1].
    """
    if not tasks:
        return
    texts = [json.dumps(asdict(task)) for task in tasks]
    shares = Shares.remote()
    over = threading.Event()
    poller = threading.Thread(target=_poll, args=(shares, on_share, over), daemon=True)
    poller.start()
    try:
        for text in run_on_workers(partial(_run_task, shares), texts, workers, max(task.threads for task in tasks)):
            yield FileOutcome(**json.loads(text))
    finally:
        over.set()
        poller.join()
        ray.kill(shares)


@ray.remote(num_cpus=0)
class Shares:
    """How much of each file is done that is being worked on."""

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}

    def note(self, number: int, share: float) -> None:
        self._shares[number] = share

    def take(self) -> dict[int, float]:
        """What was noted since the last call."""
        shares, self._shares = self._shares, {}
        return shares


def _poll(shares: Any, on_share: Callable[[int, float], None], over: threading.Event) -> None:
    while not over.wait(SHARE_INTERVAL_S):
        try:
            noted = ray.get(shares.take.remote(), timeout=10)
        except ray.exceptions.RayError:  # it shows progress, no more: a busy or dying cluster is for others to report
            continue
        for number, share in noted.items():
            on_share(number, share)


def run_on_workers(function: Callable[[str], str], texts: Sequence[str], workers: int, cpus: int) -> Iterator[str]:
    """Apply a function from text to text in Ray Data tasks, one for each text."""
    if not texts:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a task that kills its workers must not take the others with it
    with _quiet("ray.data"):
        dataset = ray.data.from_items([{"task": text} for text in texts], override_num_blocks=len(texts))
        pool = ray.data.TaskPoolStrategy(size=min(workers, len(texts)))
        results = dataset.map(partial(_run_row, function), compute=pool, num_cpus=cpus)
        for row in results.iter_rows():
            yield row["outcome"]


def _run_row(function: Callable[[str], str], row: dict[str, str]) -> dict[str, str]:
    return {"outcome": function(row["task"])}


def _run_task(shares: Any, text: str) -> str:
    task = FileTask(**json.loads(text))
    enter_worker(task.import_path, task.threads)
    return json.dumps(asdict(corrupt_file(task, lambda share: shares.note.remote(task.number, share))))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger's words off the terminal; Ray writes them into files of its own as well."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write(task: FileTask, watch: Stopwatch, on_share: OnShare) -> dict[str, Any]:
    source, output = Path(task.source), Path(task.output)
    spec = parse_spec(task.spec) if task.spec else None
    with watch("hash"):
        source_hash = hash_file(source) if source.is_file() else ""  # whoever reads it says what is wrong
    output.parent.mkdir(parents=True, exist_ok=True)
    if task.media_type == MediaType.IMAGE:
        facts = _write_image(task, spec, watch)
    else:
        facts = _write_video(task, spec, watch, on_share)
    with watch("hash"):
        own_hash = hash_file(output)
        if task.decode_back:
            facts["decoded_hash"] = decoded_hash(output, task.media_type, task.sample_id, task.threads)
    return {"source_sha256": source_hash, "sha256": own_hash, "bytes": output.stat().st_size, **facts}


def decoded_hash(file: Path, media_type: str, sample_id: str, num_threads: int = 1) -> str:
    """Content hash of all frames that a file decodes to, as they are (see `FrameHash`). Errors as in `VideoFile`."""
    if media_type == MediaType.IMAGE:
        return _hash_frames(IMAGE_FPS, [read_image(file, sample_id)[None]])
    source = VideoFile(file, sample_id=sample_id, num_threads=num_threads)
    return _hash_frames(source.fps, (chunk.frames for chunk in source.chunks()))


def rendered_hash(task: FileTask) -> str:
    """Content hash of the frames that a task would encode, without writing them.

    Raises:
        DataError, ConfigError: the source cannot be read, or its corruption not be rendered.
    """
    spec, watch = parse_spec(task.spec) if task.spec else None, Stopwatch()
    if task.media_type == MediaType.IMAGE:
        return _hash_frames(IMAGE_FPS, [_image_frames(task, spec, watch)])
    stream = _stream(task, _source(task, watch), spec, watch)
    return _hash_frames(stream.fps, (chunk.frames for chunk in stream.chunks()))


def _hash_frames(fps: float, parts: Iterable[np.ndarray]) -> str:
    digest = FrameHash(fps)
    for frames in parts:
        digest.update(frames)
    return digest.hexdigest()


def _write_video(task: FileTask, spec: CorruptionSpec | None, watch: Stopwatch, on_share: OnShare) -> dict[str, Any]:
    source = _source(task, watch)
    aspect, claimed, told = getattr(source, "pixel_aspect", None), getattr(source, "claimed_frames", 0), time.monotonic()
    stream = _stream(task, source, spec, watch)
    with write_video(Path(task.output), stream.fps, clock_fps=source.fps, crf=task.crf, preset=task.preset,
                     num_threads=task.threads, pixel_aspect=aspect, watch=watch) as writer:
        for chunk in stream.chunks():
            writer.write(chunk)
            if claimed and time.monotonic() - told > SHARE_INTERVAL_S:
                told = time.monotonic()
                on_share(min(writer.frames / claimed, 1.0))
    height, width = chunk.frames.shape[1:3]
    return {"content_hash": writer.content_hash, "fps": stream.fps, "frames": writer.frames, "width": width, "height": height}


def _stream(task: FileTask, source: FrameSource, spec: CorruptionSpec | None, watch: Stopwatch) -> FrameSource:
    return corrupt_stream(source, spec, held_bytes=task.held_mib * 2**20, watch=watch) if spec else source


def _source(task: FileTask, watch: Stopwatch) -> FrameSource:
    file = Path(task.source)
    if task.frames is None:
        return VideoFile(file, sample_id=task.sample_id, num_threads=task.threads, watch=watch)
    with watch("decode"):
        clip = load_clip(file, FrameSampling(**task.frames), sample_id=task.sample_id, num_threads=task.threads)
    return HeldFrames(crop_to_even(clip.frames), clip.fps)


def _write_image(task: FileTask, spec: CorruptionSpec | None, watch: Stopwatch) -> dict[str, Any]:
    """Images stay images: PNG, without loss."""
    frames = _image_frames(task, spec, watch)
    with watch("encode"):
        _, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(frames[0]), cv2.COLOR_RGB2BGR))
        with replacing(Path(task.output)) as temporary:
            temporary.write_bytes(data.tobytes())
    height, width = frames.shape[1:3]
    return {"content_hash": _hash_frames(IMAGE_FPS, [frames]), "fps": IMAGE_FPS, "frames": 1, "width": width,
            "height": height}


def _image_frames(task: FileTask, spec: CorruptionSpec | None, watch: Stopwatch) -> np.ndarray:
    file = Path(task.source)
    if not file.is_file():
        fail(file, task.sample_id, "missing_media", "the image does not exist; check its path")
    with watch("decode"):
        if task.frames is None:
            frames = read_image(file, task.sample_id)[None]
        else:
            sampling = FrameSampling(**task.frames)
            frames = load_clip(file, sampling, sample_id=task.sample_id, media_type=MediaType.IMAGE).frames
    with watch("corrupt"):
        return render(frames, spec, fps=IMAGE_FPS) if spec else frames
