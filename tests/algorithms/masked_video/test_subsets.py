"""Plackett-Luce against enumeration: probabilities, entropies, draws."""

from __future__ import annotations

import math
from itertools import permutations

import torch

from squall.algorithms.masked_video.subsets import (
    categorical_log_probs,
    draw,
    draw_log_probs,
    entropy,
    gumbel_noise,
    most_sequence_entropy,
    sequence_entropy,
)

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, 1.1])


def enumerate_actions(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered actions of `count` tokens and their probabilities, drawn one after the other."""
    actions, probabilities = list(permutations(range(5), count)), []
    weights = LOGITS.double().exp()
    for action in actions:
        probability, left = 1.0, weights.sum().item()
        for token in action:
            probability *= weights[token].item() / left
            left -= weights[token].item()
        probabilities.append(probability)
    return torch.tensor(actions), torch.tensor(probabilities, dtype=torch.float64)


def test_probabilities_of_all_actions_equal_enumeration_and_sum_to_1() -> None:
    for count in (1, 2, 3, 4):
        actions, expected = enumerate_actions(count)
        found = draw_log_probs(LOGITS.expand(len(actions), 5), actions).sum(1).exp()
        assert torch.allclose(found.double(), expected, rtol=1e-5) and abs(expected.sum() - 1) < 1e-12


def test_the_mean_sequence_entropy_is_the_entropy_of_the_distribution() -> None:
    for count in (1, 3):
        actions, probabilities = enumerate_actions(count)
        exact = -(probabilities * probabilities.log()).sum()
        found = (probabilities * sequence_entropy(LOGITS.expand(len(actions), 5), actions).double()).sum()
        assert torch.allclose(found, exact, rtol=1e-5)
    assert torch.allclose(sequence_entropy(LOGITS[None], torch.tensor([[2]])), entropy(LOGITS[None]))
    assert math.isclose(sequence_entropy(torch.zeros(1, 5), torch.tensor([[0, 4, 2]])).item(), most_sequence_entropy(5, 3),
                        rel_tol=1e-6)


def test_draws_come_as_often_as_their_probability() -> None:
    actions, expected = enumerate_actions(2)
    drawn = draw(LOGITS.expand(40_000, 5), gumbel_noise(40_000, 5, torch.Generator().manual_seed(0)), 2)
    shares = (drawn[:, None] == actions).all(2).double().mean(0)
    assert (shares - expected).abs().max() < 0.008 and expected.max() > 0.15


def test_logits_far_apart_stay_finite_and_so_do_their_gradients() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0, 80.0]], requires_grad=True)
    log_probs = draw_log_probs(logits, torch.tensor([[1, 0, 3]]))
    assert torch.allclose(log_probs, torch.tensor([[-600.0, 0.0, 0.0]]))
    log_probs.sum().backward()
    assert logits.grad.isfinite().all()
    assert sequence_entropy(logits.detach(), torch.tensor([[0, 3, 2]])).isfinite().all()


def test_the_gradient_is_that_of_drawing_one_after_the_other() -> None:
    logits, action = LOGITS.clone().double().requires_grad_(), [4, 1, 2]
    expected = sum((logits[token] - logits[[i for i in range(5) if i not in action[:place]]].logsumexp(0))
                   for place, token in enumerate(action))
    wanted, = torch.autograd.grad(expected, logits)
    found, = torch.autograd.grad(draw_log_probs(logits[None], torch.tensor([action])).sum(), logits)
    assert torch.allclose(found, wanted)


def test_the_shortcut_is_too_low() -> None:
    action = torch.tensor([[2, 4, 0]])
    shortcut, exact = categorical_log_probs(LOGITS[None], action), draw_log_probs(LOGITS[None], action)
    assert torch.allclose(shortcut[0, 0], exact[0, 0]) and (shortcut[0, 1:] < exact[0, 1:] - 0.5).all()
