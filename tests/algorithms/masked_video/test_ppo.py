"""PPO's losses by hand, and beside REINFORCE."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.masked_video.ppo import (
    SamplerTrainingConfig,
    group_advantages,
    ppo_surrogate,
    reinforce_surrogate,
    value_loss,
)
from squall.algorithms.masked_video.subsets import draw_log_probs

OLD = torch.log(torch.tensor([[0.5, 0.2], [0.1, 0.4]]))
ADVANTAGES = torch.tensor([2.0, -1.0])


def test_a_gain_is_clipped_above_for_good_actions_and_below_for_bad_ones() -> None:
    new = torch.log(torch.tensor([[0.9, 0.1], [0.05, 0.8]]))  # ratios 1.8, 0.5; 0.5, 2
    made = ppo_surrogate(SamplerTrainingConfig(), new, OLD, ADVANTAGES)
    assert torch.allclose(made.loss, -torch.tensor([(2 * 1.2 + 2 * 0.5) / 2, (-0.8 - 2.0) / 2]))
    assert torch.allclose(made.ratios, torch.tensor([[1.8, 0.5], [0.5, 2.0]]))
    assert torch.equal(made.clipped, torch.tensor([0.5, 0.5]))


def test_a_whole_action_has_the_product_of_its_draws_ratios() -> None:
    new = torch.log(torch.tensor([[0.55, 0.2], [0.1, 0.2]]))
    made = ppo_surrogate(SamplerTrainingConfig(ratio="action"), new, OLD, ADVANTAGES)
    assert torch.allclose(made.ratios, torch.tensor([[1.1], [0.5]]))
    assert torch.allclose(made.loss, -torch.tensor([2 * 1.1, -0.8]) / 2)


@pytest.mark.parametrize("ratio", ["draw", "action"])
def test_at_ratio_1_its_gradient_is_that_of_reinforce(ratio: str) -> None:
    action, gradients = torch.tensor([[2, 0], [1, 3]]), []
    for surrogate in (lambda new: ppo_surrogate(SamplerTrainingConfig(ratio=ratio), new, new, ADVANTAGES),
                      lambda new: reinforce_surrogate(new, ADVANTAGES)):
        logits = torch.arange(8.0).reshape(2, 4).sin().requires_grad_()
        made = surrogate(draw_log_probs(logits, action))
        assert torch.equal(made.ratios, torch.ones_like(made.ratios))
        made.loss.sum().backward()
        gradients.append(logits.grad)
    assert gradients[0].abs().max() > 0.1 and torch.allclose(*gradients, atol=1e-6)


def test_the_critic_learns_the_reward() -> None:
    values = torch.tensor([0.5, -1.0], requires_grad=True)
    loss = value_loss(values, torch.tensor([1.0, -1.0]))
    assert torch.allclose(loss, torch.tensor([0.25, 0.0]))
    loss.sum().backward()
    assert torch.allclose(values.grad, torch.tensor([-1.0, 0.0]))


def test_a_group_compares_every_mask_with_the_others_of_its_clip() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [10.0, 10.0, 10.0]])
    assert torch.allclose(group_advantages(rewards), torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]), atol=1e-6)
