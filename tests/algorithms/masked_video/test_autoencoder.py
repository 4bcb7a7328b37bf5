"""The masked autoencoder: what it sees, what it predicts, and what its losses are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
from squall.algorithms.masked_video.transformer import sine_positions
from squall.platform.config import validate
from squall.platform.errors import ConfigError


def split(clips: int, tokens: int = 48, visible: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.rand(clips, tokens, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order[:, :visible].sort(1).values, order[:, visible:].sort(1).values


def test_masked_pixels_reach_neither_encoder_nor_prediction(autoencoder: Any, clips: torch.Tensor) -> None:
    module, (visible, masked) = autoencoder(), split(4)
    pixels = module.grid.cut(clips)
    pixels.scatter_(1, masked[..., None, None].expand(-1, -1, *pixels.shape[2:]), 0.25)
    first, second = (module(each, visible, masked).prediction for each in (clips, module.grid.join(pixels)))
    assert torch.equal(first, second)
    assert not torch.equal(first, module(clips.flip(0), visible, masked).prediction)


def test_targets_have_mean_0_and_standard_deviation_1_in_each_channel_of_a_token(autoencoder: Any, clips: torch.Tensor) -> None:
    _, masked = split(4)
    target = autoencoder().targets(clips, masked).unflatten(2, (-1, 3))
    assert target.mean(2).abs().max() < 1e-5 and (target.std(2) - 1).abs().max() < 1e-4
    plain = autoencoder(normalise_targets=False).targets(clips, masked)
    assert torch.equal(plain[2, 5], autoencoder().grid.cut(clips)[2, masked[2, 5]].flatten())


def test_a_loss_is_the_mean_over_the_pixels_of_masked_tokens(autoencoder: Any, clips: torch.Tensor) -> None:
    made = autoencoder()(clips, *split(4))
    assert made.prediction.shape == made.target.shape == (4, 42, 96)
    assert torch.allclose(made.losses, (made.prediction - made.target).square().mean((1, 2)))
    assert not made.target.requires_grad


def test_it_learns_one_clip(autoencoder: Any) -> None:
    torch.manual_seed(0)
    module, (visible, masked) = MaskedAutoencoder(autoencoder().config), split(1)
    rows, columns = torch.arange(16.0)[:, None], torch.arange(16.0)
    waves = [0.5 + 0.5 * torch.sin((rows * time + columns * (5 - time)) / 5) for time in range(6)]
    clip = torch.stack(waves).expand(1, 3, 6, 16, 16)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        loss = module(clip, visible, masked).losses.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 0.5


def test_positions_are_sines_and_cosines() -> None:
    expected = torch.tensor([0.1411200, -0.9899925, 0.0299955, 0.9995500])  # of 3, 3, 0.03 and 0.03
    assert torch.allclose(sine_positions(5, 4)[3], expected, atol=1e-6)


def test_a_size_of_which_nothing_is_left_is_refused() -> None:
    numbers = dict(width=48, depth=2, heads=3, decoder_width=32, decoder_depth=1, decoder_heads=2)
    assert AutoencoderConfig(**numbers).width == 48
    with pytest.raises(ValueError, match="size base is set and so is every number that it stands for.*it would do nothing"):
        AutoencoderConfig(size="base", **numbers)
    whole = AutoencoderConfig(size="base", depth=2)
    assert AutoencoderConfig(**whole.model_dump()) == whole


def test_sizes_come_from_a_name_and_given_numbers_take_their_place() -> None:
    base = AutoencoderConfig(size="base")
    assert (base.width, base.depth, base.decoder_width, base.decoder_depth) == (768, 12, 384, 4)
    assert AutoencoderConfig(size="base", depth=2, width=None).depth == 2
    with torch.device("meta"):
        assert sum(weight.numel() for weight in MaskedAutoencoder(base).parameters()) == 94_210_944  # the paper's 94.2 million


@pytest.mark.parametrize(("values", "message"), [
    ({"width": 50}, "width 50 is not a multiple of heads 3"),
    ({"decoder_heads": 5}, "decoder_width 48 is not a multiple of decoder_heads 5"),
    ({"channels": 1}, "mean and std need a value for each of 1 channels"),
    ({"wdith": 96}, "unknown key 'wdith'. Did you mean 'width'?"),
])
def test_a_network_that_cannot_be_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(AutoencoderConfig, values, "tats")
