"""An autoencoder of two blocks on clips of 48 tokens, and clips for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig

SMALL = {"frames": 6, "image_height": 16, "image_width": 16, "patch": 4, "width": 24, "depth": 2, "heads": 3,
         "decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture
def small_config() -> AutoencoderConfig:
    return AutoencoderConfig(**SMALL)


@pytest.fixture
def autoencoder() -> Any:
    """Factory: ``autoencoder(depth=3)``; weights and biases are all random."""

    def make(**keys: Any) -> MaskedAutoencoder:
        torch.manual_seed(0)
        module = MaskedAutoencoder(AutoencoderConfig(**SMALL | keys))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return module

    return make


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.rand(4, 3, 6, 16, 16, generator=torch.Generator().manual_seed(1))
