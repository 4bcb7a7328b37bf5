"""The embedded data set: labels true by construction, splits apart, files real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset, corpus, footage_clips
from squall.platform.embedded.questions import QUESTION_TYPES, make_question
from squall.platform.embedded.scenes import COLOURS, FOOTAGE, SPLITS, load_footage
from squall.platform.embedded.tiny_policy import create_policy
from squall.platform.errors import ConfigError
from squall.platform.manifest import load_manifest
from squall.platform.models import load_policy, load_processor
from squall.platform.seeds import derive_seed
from squall.platform.video import FrameSampling, encode_video, load_clip


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_a_question_is_a_function_of_its_seed_and_its_letter_names_the_answer(kind: str) -> None:
    first, second = (make_question(kind, "train", 8, 56, seed=11) for _ in range(2))
    assert np.array_equal(first.frames, second.frames) and first.options == second.options
    assert first.frames.shape == (8, 56, 56, 3) and first.frames.dtype == np.uint8
    assert f"{first.letter}. {first.answer}" in first.options and len(set(first.options)) == 4


def test_the_named_colour_is_on_the_frame() -> None:
    for seed in range(20):
        question = make_question("colour", "test", 8, 56, seed)
        near = np.abs(question.frames[4].astype(int) - COLOURS[question.answer]).max(axis=-1) < 24
        assert near.sum() > 60, (seed, question.answer)


def test_answers_are_spread_over_the_letters() -> None:
    letters = [make_question("count", "train", 2, 28, seed).letter for seed in range(200)]
    counts = [letters.count(letter) for letter in "ABCD"]
    assert min(counts) > 30, counts


def test_splits_share_no_footage_and_the_files_stay_small() -> None:
    names = [name for split in SPLITS.values() for name in split]
    assert len(names) == len(set(names))
    assert sum(path.stat().st_size for path in FOOTAGE.glob("*.mp4")) < 3_000_000
    assert all(stop <= len(load_footage(name)[0]) for name in names for _, stop in load_footage(name)[1])


def test_the_written_set_reads_back_as_video_and_is_kept(tmp_path) -> None:
    config = EmbeddedDataConfig(directory=tmp_path, train_clips=6, validation_clips=4, test_clips=4, processes=1)
    manifests = build_dataset(config)
    samples = load_manifest(manifests["train"]).samples
    assert [sample.metadata["question_type"] for sample in samples[:3]] == ["colour", "count", "camera"]
    clip = load_clip(samples[0].media, FrameSampling(max_frames=8, max_pixels=56 * 56), sample_id=samples[0].id)
    assert clip.frames.shape == (8, 56, 56, 3) and clip.fps == pytest.approx(4.0)
    written = (tmp_path / "train" / "000000.mp4").stat().st_mtime_ns
    build_dataset(config)
    assert (tmp_path / "train" / "000000.mp4").stat().st_mtime_ns == written


def test_the_same_clips_are_the_same_files(tmp_path) -> None:
    clips = [make_question("colour", "test", 8, 56, derive_seed(0, "test", index)).frames for index in (3, 4, 9, 11)]
    first, *others = [tuple(_encoded(tmp_path / "clip.mp4", clip) for clip in clips) for _ in range(25)]
    assert set(others) == {first}


def _encoded(path: Path, frames: np.ndarray) -> bytes:
    encode_video(path, frames, fps=4)
    return path.read_bytes()


def test_an_unknown_question_type_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown question type 'color'. Did you mean 'colour'"):
        load_config(EmbeddedDataConfig, None, ["question_types=[color]"])


def test_a_new_policy_sees_the_difference_of_frames_as_strongly_as_brightness(tmp_path) -> None:
    config = EmbeddedDataConfig()
    create_policy(tmp_path, corpus(config, 60), footage_clips(config, 30), seed=0)
    weights = load_policy(str(tmp_path)).model.visual.patch_embed.proj.weight.detach()
    difference = (weights[:, :, 0] - weights[:, :, 1]).flatten(1).norm(dim=1)
    assert difference.max() > difference.min() * 5  # some filters look at motion, others do not
    processor = load_processor(str(tmp_path))
    videos = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in footage_clips(config, 30)]
    patches = processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    responses = patches @ weights.flatten(1).T
    assert torch.allclose(responses.square().mean(0), torch.ones(len(weights)), atol=0.05)
