"""Measures of held-out clips: what they say of samplers whose masks are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from squall.algorithms.masked_video.measures import COLUMNS, HeldOut, measure
from squall.algorithms.masked_video.samplers.plans import Proposal
from squall.algorithms.masked_video.step import JointTraining
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.config import validate

AUTOENCODER = {"frames": 4, "image_height": 16, "image_width": 16, "patch": 4, "width": 24, "depth": 1, "heads": 2,
               "decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (6, 3, 4, 16, 16), dtype=np.uint8)
MOTION = np.zeros((6, 32), bool)
MOTION[:, ::4] = True


def training_of(kind: str = "tats", **keys: Any) -> JointTraining:
    values = {"autoencoder": AUTOENCODER, "sampler": {"kind": kind, "network": {"width": 12, "heads": 2}}, "batch_clips": 6,
              "mask_ratio": {"ratio": 0.75}}
    return JointTraining(validate(MaskedVideoConfig, values | keys, "tats"), 10)


def lead(training: JointTraining, logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the sampler propose the same logits (N,) for every clip."""
    monkeypatch.setattr(training.sampler, "propose", lambda clips, tokens: Proposal(logits.expand(len(clips), -1)))


def test_a_sampler_that_knows_the_motion_shows_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of()
    lead(training, torch.from_numpy(MOTION[0]).float() * 1000, monkeypatch)
    found = measure(training, [HeldOut("still", CLIPS, MOTION)])
    assert set(COLUMNS) <= set(found.columns) and list(found.columns["part"]) == ["still"] * 6
    assert np.all(found.columns["visible_motion"] == 1) and np.all(found.columns["sampled_motion"] == 1)
    assert np.all(found.columns["motion"] == 0.25)
    assert np.all(found.columns["blind_motion"] == 1), "it draws the same for every clip, so that it need not look"
    assert found.collapsed and found.overlap == pytest.approx(1)
    assert all(np.array_equal(drawn, MOTION[0]) for each in found.examples for drawn in each.visible)


def test_a_masked_set_is_what_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    credit = {"chooses": "masked", "per": "clip", "reward": "loss"}
    training = training_of(sampler={"kind": "tats", "network": {"width": 12, "heads": 2}, "credit": credit})
    lead(training, torch.from_numpy(MOTION[0]).float() * 1000, monkeypatch)
    columns = measure(training, [HeldOut("pan", CLIPS, MOTION)]).columns
    assert np.all(columns["visible_motion"] == 0) and np.allclose(columns["sampled_motion"], 8 / 24)


def test_random_masks_are_the_same_for_every_sampler_and_seed() -> None:
    first, second = (measure(training_of("random", seed=0), [HeldOut("still", CLIPS, MOTION)], batch_clips=size).columns
                     for size in (2, 6))
    assert np.allclose(first["loss_random"], first["loss_own"]) and np.allclose(first["loss_own"], second["loss_own"])
    assert np.array_equal(first["visible_motion"], measure(training_of("random", seed=9), [HeldOut("still", CLIPS, MOTION)]
                                                           ).columns["visible_motion"])
    other = measure(training_of(), [HeldOut("still", CLIPS, MOTION)]).columns
    assert np.allclose(other["loss_random"], first["loss_random"])
    weight = 24 * first["loss_random"]  # of 24 masked tokens; moving and still ones together are all of them
    assert np.all((weight / 24 >= np.minimum(first["loss_moving"], first["loss_still"]))
                  & (weight / 24 <= np.maximum(first["loss_moving"], first["loss_still"])))


def test_a_probe_tells_bright_clips_from_dark_ones() -> None:
    labels = np.arange(6) % 2
    clips = (CLIPS // 4 + 150 * labels[:, None, None, None, None]).astype(np.uint8)
    probe, held = HeldOut("train", clips[:4], labels=labels[:4]), HeldOut("data", clips[4:], labels=labels[4:])
    found = measure(training_of("random"), [held, HeldOut("still", CLIPS, MOTION)], probe, classes=2)
    assert found.probe_accuracy == 1 and list(found.columns["probe_correct"]) == [True, True] + [None] * 6


def test_rows_say_what_is_unknown() -> None:
    found = measure(training_of("tube"), [HeldOut("data", CLIPS)], examples=1)
    row = found.rows()[5]
    assert row["clip"] == 5 and row["visible_motion"] is None and row["probe_correct"] is None and row["loss_own"] > 0
    assert found.probe_accuracy is None and len(found.examples) == 1 and found.examples[0].probabilities is None
    assert found.examples[0].clip.shape == (4, 16, 16, 3) and found.examples[0].visible.sum(1).tolist() == [8] * 4


def test_what_is_drawn_for_other_clips_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of()
    motion = np.zeros((2, 32), bool)
    motion[0, :8] = motion[1, 4:12] = True
    monkeypatch.setattr(training.sampler, "propose", lambda clips, tokens: Proposal(torch.from_numpy(motion).float() * 1000))
    columns = measure(training, [HeldOut("still", CLIPS[:2], motion)]).columns
    assert np.all(columns["sampled_motion"] == 1) and np.all(columns["blind_motion"] == 0.5)


def test_a_constant_predicts_pixels_as_badly_as_they_vary() -> None:
    flat = np.zeros((4, 3, 4, 16, 16), np.uint8)
    flat[2:] = 255
    training = training_of("random", autoencoder=AUTOENCODER | {"normalise_targets": False})
    assert measure(training, [HeldOut("data", flat)]).constant_loss == pytest.approx(0.25)
    assert measure(training, [HeldOut("data", CLIPS)]).constant_loss == pytest.approx(1 / 12, rel=0.05)
