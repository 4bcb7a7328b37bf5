"""The layer on frozen features: where its optimum is, and that features come out in the order of the clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.feature_head import extract_features, fit_head
from squall.platform.config import validate
from squall.platform.errors import ConfigError


def test_the_fit_is_at_the_optimum_of_its_loss_and_tells_the_classes_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centres = torch.eye(3, 5) * 4
    features = (centres[labels] + torch.randn(90, 5, generator=generator)) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0]) + 7
    features[:, 4] = 5  # tells nothing, and varies not at all
    weight, bias = fit_head(features, labels.numpy(), 3, penalty=0.1)
    assert ((features @ weight.T + bias).argmax(1) == labels).float().mean() > 0.95
    std = features.std(dim=0, unbiased=False).clamp_min(1e-3)
    normal = ((features - features.mean(0)) / std).double()
    scaled = (weight * std).double().requires_grad_()
    shift = (bias + weight @ features.mean(0)).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(normal @ scaled.T + shift, labels) + 0.05 * scaled.square().sum()
    loss.backward()
    assert max(scaled.grad.abs().max(), shift.grad.abs().max()) < 1e-3
    again, _ = fit_head(features, labels.numpy(), 3, penalty=0.1)
    stronger, _ = fit_head(features, labels.numpy(), 3, penalty=10.0)
    assert torch.equal(again, weight) and stronger.abs().sum() < weight.abs().sum() / 3


def test_features_come_in_the_order_of_the_clips_whatever_the_batch() -> None:
    class Light(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            assert clips.shape[1:] == (3, 2, 4, 4)
            return self.scale * clips.mean(dim=(2, 3, 4))

    clips = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 96).reshape(5, 2, 4, 4, 3)
    for batch in (2, 8):
        found = extract_features(Light(), clips, batch)
        assert found[:, 0].mul(255).tolist() == pytest.approx([0, 100, 200, 300, 400])


def test_networks_with_published_weights_are_not_trained() -> None:
    with pytest.raises(ConfigError, match="architecture mobilenetv2 keeps the weights that it was published with"):
        validate(FitConfig, {"network": {"architecture": "mobilenetv2"}}, "here")
