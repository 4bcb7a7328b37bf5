"""Long videos a chunk at a time: the frames that `render` gives for all of them at once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from squall.algorithms.corruption.registry import check_spec
from squall.algorithms.corruption.render import frame_map, render
from squall.algorithms.corruption.timeline import BLANK, FrameMap
from squall.platform.errors import DataError
from squall.platform.records import CorruptionSpec
from squall.platform.streaming import Chunk, FrameSource, Stopwatch, frames_per_chunk

HELD_BYTES = 2**30
"""Of frames held at a time, where a corruption needs more of a video than a chunk."""


def corrupt_stream(source: FrameSource, spec: CorruptionSpec, *, held_bytes: int = HELD_BYTES,
                   watch: Stopwatch | None = None) -> FrameSource:
    """A source of the corrupted frames; nothing is decoded or rendered until they are asked for.

    Members of a composition follow each other. Kinds that rearrange frames, and spans, take a pass that counts them; an order
    that goes back in time (shuffle) takes a pass for every `held_bytes` of frames. Where frames were cut out the others keep
    their times; where they were spliced the others close ranks.

    Raises:
        ConfigError: a spec that cannot be rendered; while frames are read, a span beyond the video.
        DataError: while frames are read, what the source raises, a user's kind that fails, or a kind that needs the whole clip
            (compression) on one of more than `held_bytes`.
    """
    watch = watch or Stopwatch()
    for member in (spec, *spec.then):
        kind = check_spec(member)
        one = replace(member, then=())
        if one.severity == 0:
            continue
        if kind.rearranges:
            source = _Rearranged(source, one, held_bytes)
        elif kind.whole_clip:
            source = _Whole(source, one, watch, held_bytes)
        else:
            source = _Repainted(source, one, watch)
    return source


@dataclass(frozen=True)
class _Painted:
    """Frames that change their pixels and keep their times."""

    source: FrameSource
    spec: CorruptionSpec
    watch: Stopwatch

    @property
    def fps(self) -> float:
        return self.source.fps

    def times(self) -> np.ndarray:
        return self.source.times()


class _Repainted(_Painted):
    def chunks(self) -> Iterator[Chunk]:
        count = len(self.times()) if self.spec.span else None
        first = 0
        for chunk in self.source.chunks():
            with self.watch("corrupt"):
                frames = render(chunk.frames, self.spec, fps=self.fps, first=first, count=count)
            yield Chunk(frames, chunk.times)
            first += len(frames)


@dataclass(frozen=True)
class _Whole(_Painted):
    """A kind whose frames depend on each other."""

    held_bytes: int

    def chunks(self) -> Iterator[Chunk]:
        held, held_bytes = [], 0
        for chunk in self.source.chunks():
            held.append(chunk)
            held_bytes += chunk.frames.nbytes
            if held_bytes > self.held_bytes:
                height, width = chunk.frames.shape[1:3]
                most = self.held_bytes // chunk.frames[0].nbytes
                raise DataError(
                    f"corruption '{self.spec.kind}' needs all frames at once, and at most {most:,} of {width}x{height} fit "
                    f"{self.held_bytes / 2**20:,.0f} MiB; cut the video into shorter clips, take fewer or smaller frames "
                    "(frames.max_frames, frames.max_pixels), or allow more memory", reason="too_long")
        frames, times = np.concatenate([chunk.frames for chunk in held]), np.concatenate([chunk.times for chunk in held])
        held.clear()
        with self.watch("corrupt"):
            frames = render(frames, self.spec, fps=self.fps)
        yield from _cut_up(frames, times)


@dataclass
class _Rearranged:
    """Frames that are lost or change places."""

    source: FrameSource
    spec: CorruptionSpec
    held_bytes: int
    _shown: FrameMap | None = field(default=None, repr=False)

    @property
    def fps(self) -> float:
        count, shown = len(self.source.times()), self._map()
        lost = len(shown.source) < count and not shown.spliced
        return self.source.fps * (len(shown.source) / count) if lost else self.source.fps  # fewer frames in the same time

    def times(self) -> np.ndarray:
        before = self.source.times()
        return np.interp(self._map().times, np.arange(len(before)), before)

    def chunks(self) -> Iterator[Chunk]:
        shown, times = self._map(), self.times()
        order = shown.source[shown.source != BLANK]
        frames = self._forward(shown) if np.all(np.diff(order) >= 0) else self._in_passes(shown)
        first, batch = 0, []
        for frame in frames:
            batch.append(frame)
            if len(batch) == frames_per_chunk(frame.nbytes):
                yield Chunk(np.stack(batch), times[first : first + len(batch)])
                first, batch = first + len(batch), []
        if batch:
            yield Chunk(np.stack(batch), times[first:])

    def _map(self) -> FrameMap:
        if self._shown is None:
            self._shown = frame_map(self.spec, len(self.source.times()))
        return self._shown

    def _forward(self, shown: FrameMap) -> Iterator[np.ndarray]:
        """In one pass, for frames that keep their order."""
        frames = _frames(self.source)
        index, frame = next(frames)
        for wanted in shown.source:
            while index < wanted:
                index, frame = next(frames)
            yield frame if wanted != BLANK else np.full_like(frame, shown.shade)

    def _in_passes(self, shown: FrameMap) -> Iterator[np.ndarray]:
        """In any order: every pass collects as many frames as may be held."""
        start = 0
        while start < len(shown.source):
            held, blank, wanted = {}, None, set()
            for index, frame in _frames(self.source):
                if blank is None:
                    blank = np.full_like(frame, shown.shade)
                    stop = start + max(1, self.held_bytes // frame.nbytes)
                    wanted = set(shown.source[start:stop].tolist()) - {BLANK}
                if index in wanted:
                    held[index] = frame.copy()  # a view would keep its whole chunk
                if len(held) == len(wanted):
                    break
            yield from (held.get(index, blank) for index in shown.source[start:stop].tolist())
            start = stop


def _frames(source: FrameSource) -> Iterator[tuple[int, np.ndarray]]:
    index = 0
    for chunk in source.chunks():
        for frame in chunk.frames:
            yield index, frame
            index += 1


def _cut_up(frames: np.ndarray, times: np.ndarray) -> Iterator[Chunk]:
    size = frames_per_chunk(frames[0].nbytes)
    for first in range(0, len(frames), size):
        yield Chunk(frames[first : first + size], times[first : first + size])
