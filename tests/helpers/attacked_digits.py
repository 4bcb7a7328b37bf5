"""Checkpoints of small networks that know scikit-learn's digits, trained in a second, and images to attack them with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from squall.platform.image_classifiers import save_image_classifier
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images
from squall.platform.networks import NetworkConfig, build_network

EPOCHS = 2


@cache
def digits(split: str = "test") -> ImageSet:
    """The embedded data set."""
    return load_images(ImageDataConfig(), split)


def save_model(folder: Path, seed: int) -> Path:
    """Train a network with this seed and write it as a checkpoint; returns the folder."""
    data, network = digits("train"), NetworkConfig(architecture="small_cnn")
    mean, std = data.statistics()
    torch.manual_seed(seed)
    module = build_network(network, data.shape, 10, mean, std)
    images, labels = data.tensor(), torch.from_numpy(data.labels)
    optimiser = torch.optim.Adam(module.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimiser.step()
    save_image_classifier(folder, module.eval(), network, data.classes, data.shape, mean, std, {"objective": "supervised"})
    return folder
