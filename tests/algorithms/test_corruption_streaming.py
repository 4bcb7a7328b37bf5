"""Streams of frames: in chunks, in passes and in any composition, the frames and times that rendering the whole clip gives."""

from __future__ import annotations

import numpy as np
import pytest

import squall.platform.streaming as streaming
from squall.algorithms.corruption import KINDS, parse_spec, render_clip, render_with_masks
from squall.algorithms.corruption.streaming import corrupt_stream
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import make_clip
from squall.platform.streaming import HeldFrames, Stopwatch

FRAMES = np.random.default_rng(0).integers(0, 256, (37, 32, 48, 3), dtype=np.uint8)
FPS = 24.0
COMPOSED = (
    "random_drop_cut 0.5 seed=3 + heavy_rain 0.4 seed=4",
    "shuffle 1 seed=4 + fog 0.5 seed=2 + segment_drop_splice 0.3 seed=9",
    "fog 0.5 seed=1 frames=3:20 + night 0 seed=1",
    "stall 0.4 seed=1 frames=4:30 + compression 0.3 seed=2",
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 5 * FRAMES[0].nbytes)


@pytest.mark.parametrize("text", [*(f"{kind} 0.6 seed=3" for kind in KINDS), *COMPOSED])
def test_a_stream_gives_what_rendering_the_whole_clip_gives(text: str) -> None:
    spec = parse_spec(text)
    stream = corrupt_stream(HeldFrames(FRAMES, FPS), spec)
    chunks = list(stream.chunks())
    whole = render_with_masks(FRAMES, spec, fps=FPS)
    assert max(len(chunk.frames) for chunk in chunks) == 5 and len(chunks) > 1
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks]), whole.frames)
    assert np.allclose(np.concatenate([chunk.times for chunk in chunks]), whole.times / FPS)
    assert stream.fps == pytest.approx(render_clip(make_clip(FRAMES, FPS), spec).fps)


class Counted(HeldFrames):
    """Counts how often it is gone through."""

    passes = 0

    def chunks(self):
        Counted.passes += 1
        return super().chunks()


def test_an_order_that_goes_back_in_time_takes_several_passes_of_bounded_memory() -> None:
    Counted.passes = 0
    spec = parse_spec("shuffle 1 seed=4")
    stream = corrupt_stream(Counted(FRAMES, FPS), spec, held_bytes=10 * FRAMES[0].nbytes)
    assert np.array_equal(np.concatenate([chunk.frames for chunk in stream.chunks()]), render_with_masks(FRAMES, spec).frames)
    assert Counted.passes == 4  # 37 frames, 10 at a time


def test_a_kind_that_needs_all_frames_refuses_more_than_may_be_held() -> None:
    stream = corrupt_stream(HeldFrames(FRAMES, FPS), parse_spec("compression 0.5 seed=1"), held_bytes=10 * FRAMES[0].nbytes)
    with pytest.raises(DataError, match="'compression' needs all frames at once, and at most 10 of 48x32 fit 0 MiB") as caught:
        list(stream.chunks())
    assert caught.value.reason == "too_long"


def test_a_span_beyond_the_video_is_found_when_it_is_read() -> None:
    stream = corrupt_stream(HeldFrames(FRAMES, FPS), parse_spec("fog 0.5 seed=1 frames=3:50"))
    with pytest.raises(ConfigError, match="reaches beyond the clip's 37 frames"):
        list(stream.chunks())


def test_time_is_taken_of_what_corrupts_alone() -> None:
    watch = Stopwatch()
    list(corrupt_stream(HeldFrames(FRAMES, FPS), parse_spec("fog 0.5 seed=1"), watch=watch).chunks())
    assert list(watch.seconds) == ["corrupt"] and watch.seconds["corrupt"] > 0
