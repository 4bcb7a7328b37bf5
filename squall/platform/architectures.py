"""The image and clip networks that Squall defines itself. `squall.platform.networks` builds them by name.

Each takes images (B, C, H, W), or clips (B, C, T, H, W), that are normalised already, and returns logits (B, classes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Normalised(nn.Module):
    """A network behind its normalisation: images in [0, 1] go in, so that attacks and evaluation cannot forget it."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        """`mean` and `std` are shaped to broadcast over an image: (C, 1, 1), or (C, 1, 1, 1) for clips."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, C, ...) in [0, 1]."""
        return self.network((images - self.mean) / self.std)


def small_cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions of stride 2 and two linear layers, no batch norm: 214,850 parameters for 1x28x28 and 10 classes.

    Strides in place of pooling make it cheap on a CPU: 0.9 million multiplications an image of 28x28.
    """
    features = nn.Sequential(nn.Conv2d(shape[0], 24, 4, stride=2, padding=1), nn.ReLU(),
                             nn.Conv2d(24, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(width_of(features, shape), 128), nn.ReLU(), nn.Linear(128, classes))


def cnn4(shape: tuple[int, ...], classes: int) -> nn.Module:
    """AliCNN, four 3x3 convolutions without batch norm, as the authors' code of arXiv 2606.12251 has it.

    Its linear layer has 2,048 inputs for 32x32 images, and as many as are left for others.
    """
    features = nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(width_of(features, shape), 1024), nn.ReLU(), nn.Dropout(0.5),
                         nn.Linear(1024, classes))


def cnn6(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Six 4x4 convolutions that keep the size, each with batch norm, as the authors' code of arXiv 2606.12251 has it.

    Its linear layer has 2,048 inputs for 32x32 images, and as many as are left for others.
    """
    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        same = nn.ZeroPad2d((1, 2, 1, 2))  # what padding="same" means for an even kernel, which torch warns about
        return [same, nn.Conv2d(inputs, outputs, 4), nn.BatchNorm2d(outputs), nn.ReLU()]

    def pair(inputs: int, middle: int, outputs: int, dropout: float) -> list[nn.Module]:
        return [*convolution(inputs, middle), *convolution(middle, outputs), nn.MaxPool2d(2), nn.Dropout(dropout)]

    features = nn.Sequential(*pair(shape[0], 264, 128, 0.2), *pair(128, 512, 128, 0.25), *pair(128, 128, 128, 0.35),
                             nn.Flatten())
    return nn.Sequential(*features, nn.Linear(width_of(features, shape), 256), nn.BatchNorm1d(256), nn.ReLU(),
                         nn.Dropout(0.5), nn.Linear(256, classes))


def cnn3d(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three 3x3x3 convolutions, the mean over time and place, and one linear layer, no batch norm, for clips."""
    def convolution(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU()]

    return nn.Sequential(*convolution(shape[0], 16, (1, 2, 2)), *convolution(16, 32, (2, 2, 2)),
                         *convolution(32, 64, (2, 2, 2)), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, classes))


class VideoMAE(nn.Module):
    """Hugging Face's VideoMAE, which has time before channels, as a network of clips (B, C, T, H, W)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import VideoMAEForVideoClassification

        # Double gradients (input-gradient regularisation) need attention written out.
        self.model = VideoMAEForVideoClassification._from_config(config, attn_implementation="eager")

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        return self.model(pixel_values=clips.transpose(1, 2)).logits


def width_of(features: nn.Module, shape: tuple[int, ...]) -> int:
    """How many numbers `features` makes of one image of a shape."""
    training = features.training
    with torch.no_grad():
        width = features.eval()(torch.zeros(1, *shape)).shape[1]
    features.train(training)
    return width
