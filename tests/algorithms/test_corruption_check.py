"""The checker of corruption kinds: ours pass it, and each way to get one wrong has a line that says what and how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.algorithms.corruption import registry
from squall.algorithms.corruption.check import CheckResult, check_kind, sample_clip

KINDS = '''
import os
import numpy as np
from squall.algorithms.corruption import FrameMap, Parameter, corruption

def dim(frames, timeline, *, severity, floor=0.1):
    """Darker."""
    frames[:] = (frames * (1 - (1 - floor) * severity)).astype(np.uint8)

def flicker(frames, timeline, *, severity):
    """A good kind with chance in it."""
    light = timeline.per_frame(1)[:, 0] % np.uint64(100) / 100
    frames[:] = (frames * (1 - severity * light[:, None, None, None])).astype(np.uint8)

def raises(frames, timeline, *, severity):
    raise ValueError("no lens")

def halves(frames, timeline, *, severity):
    return frames[:, ::2]

calls = []
def drifts(frames, timeline, *, severity):
    calls.append(1)
    frames[:] = np.minimum(frames, 255 - len(calls))

def by_process(frames, timeline, *, severity):
    frames[:] = (frames * (1 - severity * (os.getpid() % 97 + 1) / 100)).astype(np.uint8)

def by_place(frames, timeline, *, severity):
    frames[:] = (frames * (1 - severity * np.linspace(0, 1, len(frames))[:, None, None, None])).astype(np.uint8)

def jump(frames, timeline, *, severity):
    frames[:] = frames // 2

def falls(frames, timeline, *, severity):
    frames[:] = (frames * (1 - severity * (1 - severity))).astype(np.uint8)

def nothing(frames, timeline, *, severity):
    frames = frames // 2

def small_only(frames, timeline, *, severity):
    frames[:, 8] = (frames[:, 8] * (1 - severity)).astype(np.uint8)

def slow(frames, timeline, *, severity):
    for _ in range(1000 if frames.shape[1] == 224 else 0):  # copies, since it is in copies that a kind is measured
        frames.copy()
    dim(frames, timeline, severity=severity)

def wrong_arguments(frames):
    pass

@corruption("temporal", rearranges=True, fraction=Parameter(lambda x: x, 0, 1))
def out_of_range(count, rng, *, fraction):
    return FrameMap.fill(np.arange(count) + 1)
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a module of users' kinds."""
    folder = tmp_path_factory.mktemp("kinds")
    Path(folder, "users_kinds.py").write_text(KINDS)
    sys.path.insert(0, str(folder))
    yield "users_kinds"
    sys.path.remove(str(folder))
    registry._kinds.pop("out_of_range", None)


def results(name: str) -> dict[str, CheckResult]:
    return {result.name: result for result in check_kind(name)}


def statuses(found: dict[str, CheckResult], status: str) -> set[str]:
    return {name for name, result in found.items() if result.status == status}


@pytest.mark.parametrize("name", ["heavy_rain", "shake", "blocks_dynamic", "mask_tokens", "random_drop_splice", "freeze"])
def test_our_kinds_pass(name: str) -> None:
    found = results(name)
    assert statuses(found, "failed") == set(), found
    assert len(found) == 12 and "harm grows" in found["severity"].message


def test_a_kind_that_needs_the_whole_clip_is_not_asked_for_single_frames() -> None:
    found = results("compression")
    assert statuses(found, "failed") == set()
    assert found["single frames"].status == "note" and "whole clip" in found["single frames"].message


def test_a_good_kind_of_a_user_passes_and_is_told_that_seeds_do_nothing(module: str) -> None:
    found = results(f"{module}:dim")
    assert statuses(found, "failed") == set() and "seeds" in statuses(found, "note")
    assert "parameters floor, severity" in found["found"].message
    assert "times a copy" in found["speed"].message
    assert results(f"{module}:flicker")["seeds"].status == "passed"


@pytest.mark.parametrize(("function", "check", "says"), [
    ("raises", "called", "failed on frames (16, 48, 64, 3): ValueError: no lens"),
    ("halves", "called", "returned uint8 (16, 24, 64, 3): it must change the frames in place"),
    ("drifts", "same again", "gave other pixels the second time (9.0% of the pixels"),
    ("by_process", "same elsewhere", "a new process renders other pixels"),
    ("by_place", "single frames", "frame 1 alone differs from frame 1 of the whole clip"),
    ("jump", "severity 0", "expected unchanged frames at severity 0, got a mean change of 5"),
    ("jump", "severity", "severity has no effect: 5"),
    ("falls", "severity", "harm falls from severity 0.6 to 0.8"),
    ("nothing", "severity", "it changes nothing at any severity; write to the frames in place (frames[:] = ...)"),
    ("small_only", "odd sizes", "4 frames of 1x1: corruption 'users_kinds:small_only' failed on frames (4, 1, 1, 3): Index"),
    ("wrong_arguments", "found", "expected a function (frames, timeline, *, severity, option=1.0, ...)"),
    ("out_of_range", "called", "expected frame numbers from -1 (blank) to 15 in the map's `source`, got 16"),
    ("absent", "found", "has no attribute 'absent'"),
])
def test_each_mistake_has_its_line(module: str, function: str, check: str, says: str) -> None:
    found = results(f"{module}:{function}")
    assert found[check].status == "failed" and says in found[check].message, found[check]
    assert all("\n" not in result.message for result in found.values())


def test_a_slow_kind_is_warned_about_not_refused(module: str) -> None:
    found = results(f"{module}:slow")
    assert statuses(found, "failed") == set()
    assert found["speed"].status == "note" and "above 400 a worker may not keep up" in found["speed"].message


def test_nothing_is_tried_on_what_cannot_be_called(module: str) -> None:
    assert list(results(f"{module}:raises")) == ["found", "called"]
    assert list(results("fogg")) == ["found"] and "Did you mean 'fog'?" in results("fogg")["found"].message


def test_the_sample_clip_reaches_from_black_to_white_and_moves() -> None:
    clip = sample_clip()
    assert (clip.min(), clip.max(), clip.shape) == (0, 255, (16, 48, 64, 3))
    assert (clip[0] != clip[-1]).any() and (clip == sample_clip()).all()
