"""Clip networks as `squall evaluate` opens them: the same probabilities as their checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squall.platform.classifiers import ClassifierConfig, open_classifier
from squall.platform.image_classifiers import ImageModelConfig, open_image_classifier, save_image_classifier
from squall.platform.image_data import ImageSet
from squall.platform.networks import NetworkConfig, build_network

CLASSES = ("blue", "green", "red")
MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)


def save(folder: Path, shape: tuple[int, ...], **values: Any) -> NetworkConfig:
    torch.manual_seed(0)
    network = NetworkConfig(**values)
    module = build_network(network, shape, len(CLASSES), MEAN[:shape[0]], STD[:shape[0]])
    save_image_classifier(folder, module, network, CLASSES, shape, MEAN[:shape[0]], STD[:shape[0]], {})
    return network


def noise(frames: int, height: int, width: int) -> ImageSet:
    clips = np.random.default_rng(0).integers(0, 256, (3, frames, height, width, 3), np.uint8)
    return ImageSet(clips, np.zeros(3, np.int64), CLASSES, "noise")


def checkpoint_probabilities(folder: Path, data: ImageSet) -> np.ndarray:
    return open_image_classifier(ImageModelConfig(path=str(folder))).module(data.tensor()).softmax(1).numpy()


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_videomae_is_also_a_hugging_face_directory_with_the_same_probabilities(tmp_path: Path, spectral_norm: bool) -> None:
    save(tmp_path, (3, 4, 16, 16), architecture="videomae", spectral_norm=spectral_norm, arguments={"num_hidden_layers": 1})
    data = noise(4, 16, 16)
    classifier = open_classifier(str(tmp_path / "huggingface"), ClassifierConfig())
    assert (classifier.classes, classifier.frame_count) == (CLASSES, 4)
    expected = checkpoint_probabilities(tmp_path, data)
    assert np.ptp(expected, axis=0).max() > 1e-4
    assert classifier.probabilities(data.images) == pytest.approx(expected, abs=1e-5)


def test_a_video_model_of_torchvision_is_also_a_state_dict_with_the_same_probabilities(tmp_path: Path) -> None:
    save(tmp_path, (3, 2, 112, 112), architecture="torchvision:mc3_18")
    # torchvision's own transform brings clips to 128x171 and cuts 112x112 out, so that these arrive as they are.
    data = noise(2, 128, 171)
    top, left = (128 - 112) // 2, round((171 - 112) / 2)
    centre = ImageSet(np.ascontiguousarray(data.images[:, :, top:top + 112, left:left + 112]), data.labels, CLASSES, "noise")
    classes = tmp_path / "classes.json"
    classifier = open_classifier("mc3_18", ClassifierConfig(
        kind="torchvision", weights=tmp_path / "torchvision.safetensors", classes=classes, frames=2))
    assert json.loads(classes.read_text()) == list(CLASSES)
    assert classifier.probabilities(data.images) == pytest.approx(checkpoint_probabilities(tmp_path, centre), abs=1e-5)


@pytest.mark.parametrize(("shape", "values"), [
    ((1, 4, 16, 16), {"architecture": "videomae", "arguments": {"num_hidden_layers": 1}}),  # processors expect RGB
    ((3, 4, 16, 16), {"architecture": "cnn3d"}),  # nobody else knows it
    ((3, 2, 16, 16), {"architecture": "torchvision:mc3_18", "mean": (0.5, 0.5, 0.5)}),  # a state dict could not say so
    ((3, 32, 32), {"architecture": "torchvision:mobilenet_v2"}),
])
def test_nothing_is_exported_that_others_would_read_otherwise(tmp_path: Path, shape: tuple[int, ...],
                                                              values: dict[str, Any]) -> None:
    save(tmp_path, shape, **values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.json", "model.safetensors"]
