"""A classifier on an encoder: what moves and by how much, and that neither workers nor the export change what it says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.autoencoder_config import IMAGENET_MEAN, IMAGENET_STD
from squall.algorithms.masked_video.finetune import ClipClassifier, FinetuneTraining, parameter_groups
from squall.algorithms.masked_video.finetune_config import FinetuneConfig
from squall.algorithms.masked_video.videomae import videomae_config
from squall.platform.config import validate
from squall.platform.errors import ConfigError, SquallError

CLIPS = torch.rand(6, 3, 6, 16, 16, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
MODES = ["full", "linear"]


def config_of(mode: str, **keys: Any) -> FinetuneConfig:
    return validate(FinetuneConfig, {"mode": mode, "batch_clips": 6, "fc_dropout": 0.2,
                                     "optimiser": {"learning_rate": 3e-3}, **keys}, "finetune")


@pytest.fixture
def trained(autoencoder: Any) -> Any:
    """Factory: ``trained("full", steps=3)``, one process; with a share a worker of several, before its first step."""

    def make(mode: str, steps: int = 3, share: Share | None = None, **keys: Any) -> FinetuneTraining:
        training = FinetuneTraining(config_of(mode, **keys), ClipClassifier(autoencoder(), 3, 0), 3, share=share)
        for _ in range(steps):
            training.advance(CLIPS, LABELS)
        return training

    return make


def weights(training: FinetuneTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.tensors()}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(value, other[name], atol=tolerance) for name, value in one.items())


def test_a_probe_leaves_the_encoder_and_full_training_does_not(trained: Any) -> None:
    for mode in MODES:
        before, after = weights(trained(mode, 0)), weights(trained(mode))
        moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
        assert {"weight/classifier.weight", "weight/classifier.bias"} <= moved
        assert ("weight/encoder.0.wider.weight" in moved) == (mode == "full")
        assert moved >= {"scale_mean", "scale_variance"} if mode == "linear" else not {"scale_mean", "scale_variance"} & moved


def test_both_learn_a_batch(trained: Any) -> None:
    for mode in MODES:
        training = trained(mode, 0, label_smoothing=0.0, fc_dropout=0.0,
                           optimiser={"learning_rate": 1e-2, "schedule": "constant"})
        rows = [training.advance(CLIPS, LABELS) for _ in range(12)]
        assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] and rows[0]["learning_rate"] == 1e-2
        assert training.probabilities(CLIPS).sum(1) == pytest.approx(torch.ones(6), abs=1e-5)


def test_the_rate_falls_from_the_head_down(autoencoder: Any) -> None:
    module = ClipClassifier(autoencoder(depth=3), 3, 0)
    groups = parameter_groups(module, config_of("full", layer_decay=0.5))
    names = {weight: name for name, weight in module.named_parameters()}
    scales = {names[weight]: (group["scale"], group["weight_decay"]) for group in groups for weight in group["params"]}
    assert scales["classifier.weight"] == (1.0, 0.01) and scales["classifier.bias"] == (1.0, 0.0)
    assert [scales[f"encoder.{number}.wider.weight"][0] for number in range(3)] == [0.125, 0.25, 0.5]
    assert scales["embedding.weight"] == (0.0625, 0.01) and len(scales) == len(names)
    torch.manual_seed(0)
    training = FinetuneTraining(config_of("full", layer_decay=0.5), module, 3)
    before = weights(training)
    training.advance(CLIPS, LABELS)
    after = weights(training)
    step = {name: (after[f"weight/{name}"] - before[f"weight/{name}"]).abs().median().item() for name in scales}
    assert step["classifier.weight"] / step["encoder.2.narrower.weight"] == pytest.approx(2, rel=0.05)  # Adam's first step


@pytest.mark.parametrize("mode", MODES)
def test_microbatches_and_workers_change_nothing(trained: Any, mode: str) -> None:
    whole = weights(trained(mode))
    assert close(whole, weights(trained(mode, microbatch_clips=4)), 2e-5)
    barrier, slots = threading.Barrier(2), [torch.zeros(0)] * 2

    def add(rank: int) -> Any:
        def sum_over_workers(values: torch.Tensor) -> None:
            slots[rank] = values.clone()
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            values.copy_(total)
        return sum_over_workers

    workers = [trained(mode, 0, Share(rank, 2, add(rank))) for rank in range(2)]

    def work(rank: int) -> None:
        own = Share(rank, 2).of(6)
        for _ in range(3):
            workers[rank].advance(CLIPS[own], LABELS[own])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(close(whole, weights(worker), 2e-5) for worker in workers)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_exported_says_the_same_in_transformers(trained: Any, mode: str) -> None:
    training = trained(mode)
    model = VideoMAEForVideoClassification(VideoMAEConfig(
        **videomae_config(training.module.config, "classification", num_labels=3))).eval()
    model.load_state_dict(training.module.to_videomae())
    mean, std = (torch.tensor(values).reshape(-1, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        theirs = model(((CLIPS - mean) / std).transpose(1, 2)).logits
        assert torch.allclose(training.module(CLIPS), theirs, atol=1e-4)
    assert torch.allclose(training.probabilities(CLIPS), theirs.softmax(1), atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_goes_on_from_its_tensors(trained: Any, autoencoder: Any, mode: str) -> None:
    whole, first = trained(mode), trained(mode, 2)
    stored, again = weights(first), trained(mode, 0)
    again.restore(stored, 2)
    again.advance(CLIPS, LABELS)
    assert close(weights(whole), weights(again), 0)
    other = FinetuneTraining(config_of(mode), ClipClassifier(autoencoder(width=12), 3, 0), 3)
    with pytest.raises(SquallError, match="a checkpoint of another size"):
        other.restore(stored, 2)


def test_branches_are_dropped_as_often_as_asked_and_made_up_for(trained: Any) -> None:
    training = trained("full", 0, drop_path=0.5, fc_dropout=0.25, batch_clips=4000)
    branches, features = training._kept(slice(0, 4000))
    assert branches.shape == (4000, 2, 2) and torch.equal(branches[:, 0].unique(), torch.tensor([1.0]))
    assert branches[:, 1].unique().tolist() == [0, 2] and branches[:, 1].mean() == pytest.approx(1, abs=0.05)
    assert features.mean() == pytest.approx(1, abs=0.02) and (features == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    block = training.module.encoder[0]
    tokens, none = torch.randn(2, 5, 24), torch.zeros(2, 2)
    assert torch.equal(block(tokens, none), tokens) and torch.allclose(block(tokens, none + 1), block(tokens), atol=1e-6)


def test_clips_may_be_bytes(trained: Any) -> None:
    training, levels = trained("full", 0), (CLIPS * 255).round()
    assert torch.allclose(training.probabilities(levels.to(torch.uint8)), training.probabilities(levels / 255), atol=1e-6)


def test_what_does_not_go_together_is_refused(autoencoder: Any) -> None:
    with pytest.raises(ConfigError, match="layer_decay and drop_path belong to mode full"):
        config_of("linear", drop_path=0.2)
    with pytest.raises(ConfigError, match="batch_clips 6 does not go round 7 workers"):
        FinetuneTraining(config_of("full"), ClipClassifier(autoencoder(), 3, 0), 3, share=Share(0, 7))
    assert config_of("full", epochs=2.5).total_steps(120) == 50 and config_of("full", epochs=0.001).total_steps(6) == 1
    assert isinstance(ClipClassifier(autoencoder(), 3, 0).fc_norm, nn.LayerNorm)
