"""Sign and credit: what is allowed, what is refused, and that rewards point where they should."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from squall.algorithms.masked_video.credit import (
    ALLOWED,
    CreditConfig,
    RewardScale,
    check_credit,
    clip_rewards,
    token_credit_loss,
)
from squall.platform.config import validate
from squall.platform.errors import ConfigError

EVERY = list(product(("visible", "masked"), ("token", "clip"), ("loss", "minus_loss")))


def test_three_of_eight_combinations_are_allowed() -> None:
    for chooses, per, reward in ALLOWED:
        assert validate(CreditConfig, {"chooses": chooses, "per": per, "reward": reward}, "tats").chooses == chooses
    assert len(set(EVERY) - set(ALLOWED)) == 5


@pytest.mark.parametrize(("chooses", "per", "reward"), sorted(set(EVERY) - set(ALLOWED)))
def test_the_others_are_refused_in_one_line(chooses: str, per: str, reward: str) -> None:
    message = (f"a {chooses} set with {per} credit and reward {reward} does not reward choosing informative tokens; "
               "allowed: visible, token, loss; visible, clip, minus_loss; masked, clip, loss")
    with pytest.raises(ConfigError, match=message):
        check_credit(chooses, per, reward)
    with pytest.raises(ConfigError, match="^tats: .*" + message):
        validate(CreditConfig, {"chooses": chooses, "per": per, "reward": reward}, "tats")


def test_a_visible_set_is_rewarded_for_a_low_loss_and_a_masked_one_for_a_high_loss() -> None:
    losses = torch.tensor([0.2, 0.9], requires_grad=True)
    visible = clip_rewards(CreditConfig(), losses)
    masked = clip_rewards(CreditConfig(chooses="masked", reward="loss"), losses)
    assert visible[0] > visible[1] and masked[1] > masked[0]
    assert not visible.requires_grad and not masked.requires_grad


def test_token_credit_raises_the_probability_of_tokens_that_were_hard() -> None:
    logits, masked = torch.zeros(1, 4, requires_grad=True), torch.tensor([[0, 1, 3]])
    losses = torch.tensor([[0.1, 2.0, 0.1]], requires_grad=True)
    loss = token_credit_loss(logits, masked, losses)
    assert torch.allclose(loss, torch.tensor([2.2 * torch.log(torch.tensor(4.0)) / 3]))
    loss.sum().backward()
    assert logits.grad[0].argmin() == 1 and logits.grad[0, 1] < 0 < logits.grad[0, 2] and losses.grad is None


def test_rewards_are_standardised_by_running_moments() -> None:
    scale, rewards = RewardScale(decay=0.0), torch.tensor([1.0, 2.0, 6.0])
    scale.update(float(rewards.sum()), float(rewards.square().sum()), 3)
    assert torch.allclose(scale(rewards), (rewards - 3) / rewards.std(unbiased=False), atol=1e-5)
    slow, other = RewardScale(decay=0.9), RewardScale(decay=0.9)
    slow.update(3.0, 5.0, 3)
    assert slow.first / slow.weight == pytest.approx(1.0)  # no bias towards 0 at first
    slow.update(6.0, 20.0, 3)
    other.load(slow.state())
    assert torch.equal(slow(rewards), other(rewards)) and slow.first / slow.weight == pytest.approx((0.9 + 2) / 1.9)
