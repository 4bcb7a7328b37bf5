"""Clips come from the frames and places that they should, the same for the same seed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from squall.platform.clip_data import ViewConfig
from squall.platform.clip_lists import ClipEntry
from squall.platform.clip_stream import Ahead, ClipSize, held_clips, random_cut, training_clip, window
from squall.platform.errors import DataError
from squall.platform.video import encode_video

WHOLE = ViewConfig(stride=2, area=(1, 1), aspect=(1.5, 1.5), flip=False)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> ClipEntry:
    """30 frames of 32x48; the left half's brightness is 20 + 6 t, the right half's 14 more."""
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    frames = np.stack([np.full((32, 48, 3), 20 + 6 * t, np.uint8) for t in range(30)])
    frames[:, :, 24:] += 14
    encode_video(path, frames, fps=10, crf=4)
    return ClipEntry("a", str(path), 0)


def times(clip: np.ndarray) -> list[int]:
    """Frame numbers, by the left edge of a clip (T, H, W, 3)."""
    return np.rint((clip[:, :, 0].mean((1, 2)) - 20) / 6).astype(int).tolist()


@pytest.mark.parametrize(("count", "expected"), [(30, (4, 1)), (29, (4, 0)), (28, (3, 6)), (8, (1, 0)), (7, (0, 0))])
def test_a_short_video_has_a_smaller_stride(count: int, expected: tuple[int, int]) -> None:
    assert window(count, 8, 4) == expected


def test_windows_are_where_the_seed_says_and_cover_all_places(video: ClipEntry) -> None:
    size = ClipSize(8, 32, 48)
    found = [times(training_clip(video, size, WHOLE, seed)) for seed in range(24)]
    assert all(np.diff(each).tolist() == [2] * 7 for each in found)
    firsts = {each[0] for each in found}
    assert min(firsts) <= 1 and max(firsts) >= 14 and max(firsts) <= 15
    assert np.array_equal(training_clip(video, size, WHOLE, 3), training_clip(video, size, WHOLE, 3))
    assert times(training_clip(video, ClipSize(40, 32, 48), WHOLE, 0))[::39] == [0, 29]


def test_half_of_the_clips_are_mirrored_where_that_is_wanted(video: ClipEntry) -> None:
    def mirrored(flip: bool) -> int:
        config = WHOLE.model_copy(update={"flip": flip})
        clips = [training_clip(video, ClipSize(2, 32, 48), config, seed).astype(int) for seed in range(16)]
        return sum(bool(clip[0, 16, 4, 0] > clip[0, 16, 44, 0] + 7) for clip in clips)

    assert mirrored(False) == 0 and 4 <= mirrored(True) <= 12


def test_test_clips_are_spread_over_the_video_and_along_its_longer_side(video: ClipEntry) -> None:
    size = ClipSize(4, 32, 32)
    assert held_clips(video, size, 4).shape == (1, 4, 32, 32, 3) and times(held_clips(video, size, 4)[0]) == [8, 12, 16, 20]
    found = held_clips(video, size, 4, clips=2, crops=3)
    assert [times(clip)[0] for clip in found[::3]] == [4, 12]
    edge = found[:3, 0, 16, :, 0].astype(int)
    bright = (edge > edge.min() + 7).mean(1)
    assert bright == pytest.approx([8 / 32, 16 / 32, 24 / 32], abs=0.04)


def test_cuts_have_the_area_and_shape_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    cuts = np.array([random_cut((100, 150), ViewConfig(area=(0.3, 0.6)), rng) for _ in range(300)])
    top, left, height, width = cuts.T
    assert top.min() >= 0 and (top + height).max() <= 100 and left.min() >= 0 and (left + width).max() <= 150
    areas, aspects = height * width / 15000, width / height
    assert 0.29 < areas.min() < 0.33 and 0.57 < areas.max() < 0.61 and 0.73 < aspects.min() and aspects.max() < 1.36
    assert random_cut((10, 100), ViewConfig(area=(1, 1), aspect=(1, 1)), rng) == (0, 45, 10, 10)


def test_what_is_smaller_than_a_token_or_no_video_is_refused(video: ClipEntry, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="30 frames, and a token has 31"):
        training_clip(video, ClipSize(62, 32, 48, 31), WHOLE, 0)
    with pytest.raises(DataError, match="frames of 32x48, and a token has 64x64 pixels"):
        held_clips(video, ClipSize(4, 64, 64, 2, 64), 1)
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(DataError, match="not a readable video"):
        training_clip(ClipEntry("b", str(tmp_path / "b.mp4"), 0), ClipSize(4, 8, 8), WHOLE, 0)
    with pytest.raises(DataError, match="the clip is gone"):
        training_clip(ClipEntry("c", str(tmp_path / "c.mp4"), 0), ClipSize(4, 8, 8), WHOLE, 0)


def double(number: int) -> int:
    if number < 0:
        raise DataError("negative")
    return 2 * number


def test_work_ahead_comes_in_order_once_and_with_its_errors() -> None:
    ahead, asked = Ahead(double, 2), []

    def items(*numbers: int) -> tuple[int, ...]:
        asked.append(numbers)
        return numbers

    ahead.begin("next", lambda: items(4, 5))
    assert ahead.take("now", lambda: items(1, 2, 3)) == [2, 4, 6] and ahead.take("next", lambda: items(9)) == [8, 10]
    assert asked == [(4, 5), (1, 2, 3)]
    with pytest.raises(DataError, match="negative"):
        ahead.take("bad", lambda: (1, -1))
    again = pickle.loads(pickle.dumps(ahead))
    assert again.take("now", lambda: (6,)) == [12]
    ahead.close()
    again.close()
