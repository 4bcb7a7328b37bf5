"""Penalties on input gradients against gradients known in closed form."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.gradient_controls import GradientControls, jacobian_norm, penalty

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def answered() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images of 3 pixels, the logits of a linear network with `WEIGHT`, and its weight."""
    weight = WEIGHT.clone().requires_grad_()
    images = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.1, 0.5]], requires_grad=True)
    return images, images @ weight.T, weight


def test_random_projections_estimate_the_frobenius_norm() -> None:
    images, logits, _ = answered()
    directions = torch.randn(2, 3000, 2, generator=torch.Generator().manual_seed(0))
    assert jacobian_norm(images, logits, directions).tolist() == pytest.approx([float(WEIGHT.square().sum())] * 2, rel=0.03)


def test_the_jacobian_penalty_pulls_weights_towards_zero() -> None:
    images, logits, weight = answered()
    directions = torch.randn(2, 3000, 2, generator=torch.Generator().manual_seed(0))
    penalty(GradientControls(jacobian=0.1), images, logits, torch.tensor([0, 1]), directions).mean().backward()
    assert torch.allclose(weight.grad, 0.1 * WEIGHT, rtol=0.1, atol=0.03)


def test_the_input_gradient_penalty_is_its_squared_length() -> None:
    images, logits, weight = answered()
    labels = torch.tensor([0, 1])
    found = penalty(GradientControls(input_gradient=2.0), images, logits, labels, torch.empty(2, 1, 2))
    slope = (logits.softmax(-1) - torch.nn.functional.one_hot(labels, 2)) @ WEIGHT
    assert found.tolist() == pytest.approx((2 * slope.square().sum(1)).tolist(), rel=1e-5)
    found.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_every_gradient_that_is_differentiated_again_costs_a_pass() -> None:
    assert GradientControls().passes == 0 and not GradientControls().active
    assert GradientControls(input_gradient=1).passes == 1
    assert GradientControls(input_gradient=1, jacobian=1, projections=3).passes == 4
