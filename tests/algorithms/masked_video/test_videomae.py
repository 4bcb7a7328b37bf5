"""Weights go to Hugging Face's VideoMAE and back, and both say the same of the same mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from squall.algorithms.masked_video.autoencoder_config import IMAGENET_MEAN, IMAGENET_STD
from squall.algorithms.masked_video.videomae import from_videomae, to_videomae, videomae_config
from squall.platform.errors import DataError


def split(clips: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    order = torch.rand(clips, 48, generator=torch.Generator().manual_seed(3)).argsort(1)
    visible, masked = order[:, :9].sort(1).values, order[:, 9:].sort(1).values
    return visible, masked, torch.ones(clips, 48, dtype=torch.bool).scatter(1, visible, False)


def pixel_values(clips: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(-1, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((clips - mean) / std).transpose(1, 2)


@pytest.mark.parametrize("keys", [{}, {"final_norm": False}, {"normalise_targets": False}])
def test_pretraining_agrees_on_features_pixels_and_loss(autoencoder: Any, clips: torch.Tensor, keys: dict[str, bool]) -> None:
    module, (visible, masked, mask) = autoencoder(**keys), split(4)
    model = VideoMAEForPreTraining(VideoMAEConfig(**videomae_config(module.config, "pretraining"))).eval()
    model.load_state_dict(to_videomae(module, "pretraining"))
    with torch.no_grad():
        ours, theirs = module(clips, visible, masked), model(pixel_values(clips), mask)
        features = model.videomae(pixel_values(clips), mask).last_hidden_state
        assert torch.allclose(module.encode(module.embed(clips), visible), features, atol=1e-5)
    assert torch.allclose(ours.prediction, theirs.logits, atol=1e-5)
    assert torch.allclose(ours.losses.mean(), theirs.loss, rtol=1e-4)


def test_the_encoder_alone_agrees_on_whole_clips(autoencoder: Any, clips: torch.Tensor) -> None:
    module = autoencoder()
    model = VideoMAEModel(VideoMAEConfig(**videomae_config(module.config))).eval()
    model.load_state_dict(to_videomae(module))
    with torch.no_grad():
        assert torch.allclose(module.encode(module.embed(clips)), model(pixel_values(clips)).last_hidden_state, atol=1e-5)


def test_a_classifier_gets_the_encoder_and_lacks_its_head_alone(autoencoder: Any, clips: torch.Tensor) -> None:
    module = autoencoder(final_norm=False)
    model = VideoMAEForVideoClassification(VideoMAEConfig(
        **videomae_config(module.config, "classification", num_labels=5))).eval()
    loaded = model.load_state_dict(to_videomae(autoencoder(), "classification"), strict=False)
    assert {name.split(".")[0] for name in loaded.missing_keys} == {"fc_norm", "classifier"} and not loaded.unexpected_keys
    with torch.no_grad():
        pooled = module.encode(module.embed(clips)).mean(1)
        assert torch.allclose(model.classifier(model.fc_norm(pooled)), model(pixel_values(clips)).logits, atol=1e-5)


@pytest.mark.parametrize(("kind", "made", "lacking"), [
    ("pretraining", VideoMAEForPreTraining, set()),
    ("model", VideoMAEModel, {"to_decoder", "mask_token", "decoder", "decoder_norm", "head"}),
    ("classification", VideoMAEForVideoClassification, {"norm", "to_decoder", "mask_token", "decoder", "decoder_norm", "head"}),
])
def test_weights_come_back_from_all_three(autoencoder: Any, kind: Any, made: Any, lacking: set[str]) -> None:
    config = autoencoder().config
    model = made(VideoMAEConfig(**videomae_config(config, kind)))
    module = autoencoder()
    absent = from_videomae(module, model.state_dict())
    assert {name.split(".")[0] for name in absent} == lacking
    for name, value in to_videomae(module, kind).items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize(("keys", "message"), [
    ({"width": 30}, r"a.safetensors: videomae.embeddings.patch_embeddings.projection.weight has shape \(30, 3, 2, 4, 4\), and "
                    r"this autoencoder's is \(24, 3, 2, 4, 4\)"),
    ({"depth": 1}, "a.safetensors: holds no videomae.encoder.layer.1"),
    ({"depth": 3}, "a.safetensors: has more than this autoencoder's 2 blocks"),
])
def test_a_checkpoint_of_another_size_is_refused(autoencoder: Any, keys: dict[str, int], message: str) -> None:
    module, other = autoencoder(), autoencoder(**keys)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(DataError, match=message):
        from_videomae(module, to_videomae(other), "a.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
