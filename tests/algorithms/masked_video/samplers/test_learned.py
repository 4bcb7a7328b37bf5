"""Learned samplers: what they see, what they leave alone, and what a new one prefers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.learned import LearnedSampler, SamplerNetworkConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError

GRID = TokenGrid(6, 16, 16, 2, 4)


def sampler(kind: str = "trajectory", critic: bool = True, **keys: Any) -> LearnedSampler:
    torch.manual_seed(0)
    return LearnedSampler(GRID, 10, SamplerNetworkConfig(**{"width": 12, "heads": 2} | keys), kind, critic)


@pytest.mark.parametrize("kind", ["trajectory", "attention"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_new_sampler_has_next_to_no_preferences(kind: str, shared: bool) -> None:
    made = sampler(kind, shared_trunk=shared)(torch.randn(3, 48, 10))
    assert made.logits.shape == (3, 48) and made.values.shape == (3,)
    assert (made.logits.softmax(1) * 48 - 1).abs().max() < 0.15 and made.values.abs().max() < 0.2


def test_chunks_propose_the_same() -> None:
    tokens = torch.randn(2, 48, 10)
    whole, chunked = (sampler(chunk_tokens=size)(tokens) for size in (0, 7))
    assert torch.allclose(whole.logits, chunked.logits, atol=1e-6) and torch.allclose(whole.values, chunked.values, atol=1e-6)


def test_tokens_get_no_gradient() -> None:
    tokens = torch.randn(2, 48, 10, requires_grad=True)
    module = sampler()
    made = module(tokens)
    (made.logits.square().sum() + made.values.sum()).backward()
    assert tokens.grad is None and all(weight.grad is not None for weight in module.parameters())


def test_two_trunks_are_apart_and_one_without_a_critic_has_no_values() -> None:
    module = sampler(shared_trunk=False)
    module(torch.randn(2, 48, 10)).values.sum().backward()
    assert all(weight.grad is None for weight in (*module.trunk.parameters(), *module.actor.parameters()))
    assert sampler(critic=False)(torch.randn(2, 48, 10)).values is None


def test_logits_stay_within_their_bound() -> None:
    module = sampler(max_logit=4.0)
    torch.nn.init.normal_(module.actor.weight, std=1000.0)
    assert module(torch.randn(2, 48, 10)).logits.abs().max() <= 4


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 13 is not a multiple of heads 2"):
        validate(SamplerNetworkConfig, {"width": 13, "heads": 2}, "tats")
