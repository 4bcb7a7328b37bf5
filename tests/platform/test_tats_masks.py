"""Masks over clips: what a run directory keeps, and what the pictures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tats_runs import mask_example

from squall.platform.report import tats_pictures
from squall.platform.report.tats_masks import MASKS_FILE, read_masks, write_masks
from squall.platform.report.tats_pictures import (
    LESS,
    LINE,
    MORE,
    draw_outline,
    heat_frames,
    masked_clips,
    masked_frames,
    spread,
)

ONE = mask_example()


def test_examples_come_back_as_they_were_and_are_replaced_or_taken_away(tmp_path: Path) -> None:
    kept = [ONE, mask_example("random", "data", 3, 2, likely=False, moving=False)]
    write_masks(tmp_path / "masks", kept)
    for one, back in zip(kept, read_masks(tmp_path / "masks"), strict=True):
        assert (back.arm, back.part, back.number, back.seed, back.tubelet, back.patch) == (
            one.arm, one.part, one.number, one.seed, 2, 4)
        for name in ("clip", "visible", "probabilities", "motion"):
            assert np.array_equal(getattr(back, name), getattr(one, name)) or getattr(one, name) is getattr(back, name) is None
    write_masks(tmp_path / "masks", [])
    assert not (tmp_path / "masks" / MASKS_FILE).exists() and read_masks(tmp_path / "masks") == []
    (tmp_path / "masks" / MASKS_FILE).write_bytes(b"no tensors")
    assert read_masks(tmp_path / "masks") == []


def test_tokens_are_numbered_time_first_then_rows_then_columns() -> None:
    assert ONE.shape == (2, 4, 4)
    pixels = spread(np.arange(32), ONE)
    assert pixels.shape == (4, 16, 16)
    assert (pixels[:2, 4:8, 8:12] == 6).all() and (pixels[2:, 0:4, 0:4] == 16).all()


def test_visible_tokens_are_as_they_are_and_masked_ones_dark_and_grey() -> None:
    frames = masked_frames(ONE, ONE.visible[0])
    shown = spread(ONE.visible[0], ONE)
    assert np.array_equal(frames[shown], ONE.clip[shown])
    hidden = frames[~shown]
    assert (hidden == hidden[:, :1]).all(), "grey"
    assert hidden.max() < ONE.clip[~shown].mean()


def test_heat_is_red_where_tokens_are_likelier_than_chance_and_grey_without_a_preference() -> None:
    frames, moving = heat_frames(ONE).astype(int), spread(ONE.motion, ONE)
    assert (frames[moving][:, 0] - frames[moving][:, 2] > 100).all(), "four times chance: full heat"
    less = frames[~moving]
    assert (less[:, 2] >= less[:, 0]).all() and (less[:, 2] - less[:, 0]).max() < 40, "a little less likely than by chance"
    assert (MORE[0], LESS[2]) == (255, 235)
    for plain in (mask_example(likely=False), replace(ONE, probabilities=np.full(32, 1 / 32))):
        grey = heat_frames(plain)
        assert (grey == grey[..., :1]).all()


def test_true_motion_is_outlined_as_one_shape() -> None:
    motion = np.zeros(32, bool)
    motion[[5, 6]] = True  # two tokens side by side, at the first time
    frames = np.zeros((4, 128, 128, 3), np.uint8)
    draw_outline(frames, replace(ONE, motion=motion))
    line = (frames == LINE).all(-1)
    assert line[:2, 32:64, 32:96].any() and not line[2:].any()
    assert line[0, 32, 32:96].all() and line[0, 63, 32:96].all() and line[0, 32:64, 32].all() and line[0, 32:64, 95].all()
    assert not line[0, 40:56, 40:88].any(), "no line between the two"
    draw_outline(frames, replace(ONE, motion=None))


def test_clips_have_every_arm_side_by_side_in_the_order_of_the_run() -> None:
    examples = [mask_example(arm, part, number, seed) for seed in (2, 1) for arm in ("random", "tats")
                for part in ("still", "pan") for number in (0, 1)]
    clips = masked_clips(examples, ["tats", "random", "flow"])
    assert [(clip.part, clip.number) for clip in clips] == [("still", 0), ("pan", 0), ("still", 1), ("pan", 1)]
    assert all([tile.arm for tile in clip.tiles] == ["tats", "random"] for clip in clips)
    assert {tile.seed for clip in clips for tile in clip.tiles} == {1}, "the first seed"
    first = clips[0]
    assert (first.shown, first.tokens, first.chance) == (2, 32, 1 / 32)
    assert first.tiles[0].on_motion == pytest.approx(1 / 4), "one of four visible tokens of two masks"
    assert first.tiles[0].picture.moving.startswith("data:image/webp;base64,") and first.tiles[0].draws == 2
    assert masked_clips(examples, ["flow"]) == [] and masked_clips([], ["tats"]) == []


def test_large_clips_are_made_small_and_fewer_are_shown_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    large = replace(mask_example(moving=False, likely=False), clip=rng.integers(0, 255, (16, 224, 224, 3), np.uint8),
                    visible=rng.random((4, 1568)) < 0.1, patch=16)
    monkeypatch.setattr(tats_pictures, "ALL_BYTES", 200_000)
    (clip,) = masked_clips([large, replace(large, number=1)], ["tats"])
    tile = clip.tiles[0]
    assert (clip.chance, tile.on_motion, tile.likely, tile.draws) == (None, None, False, 2)
    assert max(clip.picture.width, clip.picture.height) <= 160
