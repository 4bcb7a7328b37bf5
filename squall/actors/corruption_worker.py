"""Decodes and corrupts clips outside the engine process, once per clip and specification."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from squall.actors.cluster import set_threads
from squall.actors.logs import keep_log
from squall.algorithms.corruption import render_clip, shuffle_frames
from squall.platform.records import Branch, Clip, CorruptionSpec, VideoSample, make_clip
from squall.platform.seeds import derive_seed
from squall.platform.video import ClipCache, FrameSampling

CACHE_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Rendering:
    """What is known of the clips of a question, beside their pixels."""

    clip_hashes: Mapping[Branch, str]
    frames: int
    """Of all branches together."""
    corruption_s: float
    """Time that the corruption took; 0 without one."""
    seconds: float = 0.0
    """Time that the worker took for all of it."""
    done_at: float = 0.0
    """When it was done, seconds since the epoch."""


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1},
            allow_out_of_order_execution=True)
class CorruptionWorker:
    """Stateless but for its cache: the same call gives the same pixels, whichever worker runs it and how often.

    Ray restarts it and leaves a failed call to whoever asked: a file that kills the decoder is tried a few times, then counted.
    """

    def __init__(self, cpus: float, sampling: FrameSampling, cache: Path | None, log: Path | None = None) -> None:
        """`log` is the file that gets what the worker prints."""
        keep_log(log)
        self._threads = set_threads(cpus)
        self._sampling = sampling
        self._cache = ClipCache(cache, CACHE_BYTES)

    def ready(self) -> int:
        """Returns the process id once the worker is up."""
        return os.getpid()

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Returns the process id, while a call is running too."""
        return os.getpid()

    def prepare(self, sample: VideoSample, spec: CorruptionSpec | None, branches: Sequence[Branch], seed: int,
                shuffled_from: Branch = Branch.CORRUPTED) -> tuple[object, ...]:
        """Render a question's clips. Call with ``num_returns = 1 + len(branches)``.

        The shuffled branch permutes the frames of `shuffled_from`; without a corruption the corrupted clip is the clean one.

        Returns:
            A `Rendering`, then one `Clip` per branch: separate objects that the caller owns.

        Raises:
            DataError: the media cannot be read.
        """
        began = time.monotonic()
        clean = self._cache.load(sample.media, self._sampling, sample_id=sample.id, media_type=sample.media_type,
                                 num_threads=self._threads)
        started = time.monotonic()
        corrupted = clean if spec is None else render_clip(clean, spec)
        corruption_s = 0.0 if spec is None else time.monotonic() - started
        clips = {Branch.CLEAN: clean, Branch.CORRUPTED: corrupted}
        if Branch.SHUFFLED in branches:
            ordered = clips[shuffled_from]
            frames, _ = shuffle_frames(ordered.frames, derive_seed(seed, sample.id, Branch.SHUFFLED.value))
            clips[Branch.SHUFFLED] = _with_frames(ordered, frames)
        chosen = [clips[branch] for branch in branches]
        hashes = {branch: clip.content_hash for branch, clip in zip(branches, chosen, strict=True)}
        rendering = Rendering(hashes, sum(len(clip.frames) for clip in chosen), corruption_s, time.monotonic() - began,
                              time.time())
        return rendering, *chosen


def _with_frames(clip: Clip, frames: object) -> Clip:
    return make_clip(frames, clip.fps, clip.source_indices, clip.source_fps, clip.media_type)
