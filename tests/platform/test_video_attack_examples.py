"""Attacked clips in a run directory."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squall.platform.report.video_attack_examples import (
    CLIPS_FILE,
    LINE,
    AttackedClip,
    block_paths,
    clip_cards,
    draw_cells,
    read_clips,
    reduced,
    sparkline,
    write_clips,
)
from squall.platform.video_attack_card import EXAMPLES_FOLDER

RNG = np.random.default_rng(0)
CLIP = AttackedClip(
    RNG.integers(0, 256, (8, 16, 24, 3), dtype=np.uint8), RNG.integers(0, 256, (8, 16, 24, 3), dtype=np.uint8),
    RNG.integers(0, 2, (4, 2, 3)).astype(np.int8), 2, 8, "walk <fast>", "run", "pair", 1, 7, 31, ((1, 0.9), (2, 0.25)))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    without_cells = replace(CLIP, clean=CLIP.clean[:4], adversarial=CLIP.adversarial[:4], occupancy=None, trace=())
    write_clips(tmp_path, [CLIP, replace(without_cells, seed=np.int64(2))])
    return tmp_path


def test_clips_of_different_lengths_come_back_as_they_were(kept: Path) -> None:
    first, second = read_clips(kept)
    for name in ("clean", "adversarial", "occupancy"):
        np.testing.assert_array_equal(getattr(first, name), getattr(CLIP, name))
        assert getattr(first, name).dtype == getattr(CLIP, name).dtype
    assert (first.label, first.prediction, first.trace, first.fooled) == (CLIP.label, CLIP.prediction, CLIP.trace, True)
    assert (second.clean.shape, second.occupancy, second.trace, second.seed) == ((4, 16, 24, 3), None, (), 2)


def test_clips_are_replaced_and_without_any_there_is_no_file(kept: Path) -> None:
    write_clips(kept, [CLIP])
    assert len(read_clips(kept)) == 1
    write_clips(kept, [])
    assert read_clips(kept) == []
    assert list((kept / EXAMPLES_FOLDER).iterdir()) == []


@pytest.mark.parametrize("contents", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"no tensors" * 100])
def test_damaged_file_is_as_good_as_none(kept: Path, contents: bytes) -> None:
    (kept / EXAMPLES_FOLDER / CLIPS_FILE).write_bytes(contents)
    assert read_clips(kept) == []


def test_clean_attacked_and_change_are_one_picture_that_plays_in_step() -> None:
    (card,) = clip_cards([CLIP])
    assert [caption for caption, _ in card["captions"]] == ["clean", "attacked", "change × 1"]
    picture = card["clip"]
    assert (picture.width, picture.height, picture.pixelated) == (3 * 120 + 2 * 6, 80, True), "5 times as large"
    moving = Image.open(io.BytesIO(base64.b64decode(picture.moving.split(",")[1])))
    assert moving.n_frames == 8
    moving.seek(3)
    frame = np.asarray(moving.convert("RGBA"))
    np.testing.assert_array_equal(frame[::5, :120:5, :3], CLIP.clean[3])
    np.testing.assert_array_equal(frame[::5, 126:246:5, :3], CLIP.adversarial[3])
    assert (frame[:, 120:126, 3] == 0).all() and card["gap"] == pytest.approx(100 * 6 / 372, abs=0.01)


def test_cells_that_are_on_are_framed_in_the_frames_of_their_block_alone() -> None:
    frames, occupancy = np.zeros((8, 16, 24, 3), np.uint8), np.zeros((4, 2, 3), np.int8)
    occupancy[1, 1, 2] = 2
    draw_cells(frames, occupancy, 2, 8)
    drawn = (frames == LINE).all(-1)
    assert drawn[2:4, 8:, 16:].sum() == 2 * 28 == drawn.sum()
    assert not drawn[2, 9:15, 17:23].any()
    assert block_paths(occupancy) == ((3, 2, ""), (3, 2, "M2 1h1v1h-1z"), (3, 2, ""), (3, 2, "")) and block_paths(None) == ()


def test_a_clip_that_may_not_move_shows_the_frame_that_changed_most() -> None:
    adversarial = CLIP.clean.copy()
    adversarial[5] ^= 64
    (card,) = clip_cards([replace(CLIP, adversarial=adversarial, occupancy=None)])
    still = np.asarray(Image.open(io.BytesIO(base64.b64decode(card["clip"].still.split(",")[1]))).convert("RGB"))
    np.testing.assert_array_equal(still[::5, 126:246:5], adversarial[5])


def test_large_and_long_clips_are_brought_down() -> None:
    large = np.zeros((40, 200, 320, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None] * 6
    (card,) = clip_cards([replace(CLIP, clean=large, adversarial=large, occupancy=None)])
    assert (card["clip"].width, card["clip"].height) == (3 * 160 + 2 * 8, 100)
    moving = Image.open(io.BytesIO(base64.b64decode(card["clip"].moving.split(",")[1])))
    assert moving.n_frames == 14, "every third"
    assert reduced(large[:, :100, :150]).shape == (40, 100, 150, 3)


def test_the_trace_runs_from_the_first_query_to_the_last() -> None:
    assert sparkline(((1, 1.0), (3, 0.5), (5, 0.0))) == "M0.0 0.0L50.0 50.0L100.0 100.0"
    assert sparkline(((1, 0.5),)) == sparkline(()) == ""
