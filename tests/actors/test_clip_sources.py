"""A batch does not depend on how many workers share it, nor on which of its clips can be decoded by whom."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squall.actors.clip_sources import ClipSource, gather_dropped, make_clip_source
from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.clip_data import TatsDataConfig
from squall.platform.errors import ConfigError, DataError
from squall.platform.video import encode_video

GRID = TokenGrid(4, 16, 16, 2, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, of which the third is no video, and their list."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(6):
        frames = np.full((10, 24, 32, 3), 40 * number + 10, np.uint8) + 2 * np.arange(10, dtype=np.uint8)[:, None, None, None]
        encode_video(root / f"{number}.mp4", frames, fps=10)
    (root / "2.mp4").write_text("no video")
    (root / "train.txt").write_text("".join(f"{number}.mp4 {number % 2}\n" for number in range(6)))
    return root


def files(folder: Path, split: str = "train", seed: int = 0, **keys: Any) -> ClipSource:
    listed = folder / "train.txt"
    config = TatsDataConfig(**{"format": "list", "path": listed, "test_path": listed, "validation_share": 0, **keys})
    return make_clip_source(config, GRID, split, seed)


def bank(folder: Path, seed: int = 0) -> ClipSource:
    return make_clip_source(TatsDataConfig(train_clips=10), GRID, "train", seed)


@pytest.mark.parametrize("make", [files, bank])
def test_parts_of_a_batch_are_the_batch(folder: Path, make: Any) -> None:
    whole, first, second = make(folder), make(folder), make(folder)
    for step in range(4):
        expected = whole.draw(step, 5, slice(0, 5))
        parts = [source.draw(step, 5, own) for source, own in ((first, slice(0, 2)), (second, slice(2, 5)))]
        assert torch.equal(torch.cat([part.clips for part in parts]), expected.clips)
        assert torch.equal(torch.cat([part.labels for part in parts]), expected.labels)
        assert expected.clips.shape == (5, 3, 4, 16, 16) and expected.clips.dtype == torch.uint8
    clips, motion = pickle.loads(pickle.dumps(make(folder))).batch(3, 5, slice(0, 5))
    assert torch.equal(clips, expected.clips) and (motion is None) == (expected.motion is None)
    assert motion is None or torch.equal(motion, expected.motion)
    for source in (whole, first, second):
        source.close()


@pytest.mark.parametrize("make", [files, bank])
def test_reordered_clips_are_those_of_a_source_of_that_seed(folder: Path, make: Any) -> None:
    first = make(folder)
    other, expected = first.reordered(7), make(folder, seed=7)
    drawn, wanted, before = (source.draw(0, 5, slice(0, 5)) for source in (other, expected, first))
    assert torch.equal(drawn.clips, wanted.clips) and torch.equal(drawn.labels, wanted.labels)
    assert not torch.equal(drawn.clips, before.clips)
    assert other.source == expected.source and len(other) == len(expected)
    for source in (first, other, expected):
        source.close()


def test_an_epoch_has_every_clip_once_and_the_next_is_cut_anew(folder: Path) -> None:
    source = make_clip_source(TatsDataConfig(train_clips=10), GRID, "train", 0)
    seen = torch.cat([source.batch(step, 5, slice(0, 5))[0] for step in range(2)])
    assert len({clip.numpy().tobytes() for clip in seen}) == 10
    cut = files(folder, prefetch_steps=0, decode_threads=2, views={"stride": 1})
    one, other = (cut.draw(epoch, 6, slice(0, 6)) for epoch in range(2))
    assert not torch.equal(one.clips.sort(0).values, other.clips.sort(0).values)
    cut.close()


def test_another_clip_takes_the_place_of_one_that_cannot_be_decoded(folder: Path) -> None:
    source = files(folder)
    found = source.draw(0, 6, slice(0, 6))
    assert len(found.clips) == 6 and len(source.dropped) == 1
    assert "2.mp4: sample 2.mp4: not a readable video" in source.dropped[0]
    levels = (found.clips.float().mean((1, 2, 3, 4)) - 10) // 40
    assert torch.equal(levels.long() % 2, found.labels)  # a clip and its own label
    assert gather_dropped(source) == source.dropped
    source.close()


def test_held_out_clips_leave_out_what_cannot_be_decoded(folder: Path) -> None:
    source = files(folder, "test")
    found = source.all()
    assert found.names == ("0.mp4", "1.mp4", "3.mp4", "4.mp4", "5.mp4") and found.labels is not None
    assert found.labels.tolist() == [0, 1, 1, 0, 1] and found.clips.shape == (5, 3, 4, 16, 16) and found.motion is None
    assert set(found.parts) == {"data"} and len(source.dropped) == 1 and source.views(0, 2, 3).shape == (6, 3, 4, 16, 16)
    with pytest.raises(DataError, match="not a readable video"):
        source.views(2, 1, 1)


def test_a_data_set_of_nothing_readable_ends_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "train.txt").write_text("a.mp4 0\na.mp4 1\n")
    source = files(tmp_path)
    with pytest.raises(DataError, match="16 clips in a row cannot be decoded; the last: .*a.mp4"):
        source.draw(0, 2, slice(0, 2))
    with pytest.raises(DataError, match="none of 2 clips can be decoded; the first: .*a.mp4"):
        source.all()
    source.close()


def test_videos_have_three_channels(folder: Path) -> None:
    with pytest.raises(ConfigError, match="videos are RGB, and autoencoder.channels is 1"):
        make_clip_source(TatsDataConfig(format="list", path=folder / "train.txt"), TokenGrid(4, 16, 16, 2, 8, 1), "train", 0)
