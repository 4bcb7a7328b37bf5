"""Attacks inside training: within the threat, uphill, and nothing for images whose drawn class was wrong."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.adversarial_training import AdversarialConfig, divergence, fgsm, frozen, madry, trades
from squall.algorithms.attacks.base import Norm, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.projections import lengths
from squall.algorithms.classifier_objectives import ObjectiveConfig, judge


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5),
                               torch.nn.Linear(32, 4)).train()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(20) % 4


def draws() -> Draws:
    return Draws(range(20))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.2)])
def test_images_whose_action_was_wrong_stay_as_they_are(model: torch.nn.Module, images: torch.Tensor, norm: Norm,
                                                        epsilon: float) -> None:
    points = images.clone().requires_grad_()
    with frozen(model):
        logits = model(points)
    chance = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    judged = judge(ObjectiveConfig(kind="pg"), logits, LABELS, rate=0.0, chance=chance)
    judged.loss.mean().backward()
    moved = lengths(fgsm(images, points.grad, Threat(norm=norm, epsilon=epsilon)) - images, norm).flatten()
    wrong = judged.rewards == 0
    assert 3 < int(wrong.sum()) < 20 and not moved[wrong].any()
    assert (moved[~wrong] > 0.5 * epsilon).all() and (moved <= epsilon + 1e-6).all()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.5)])
def test_inner_attacks_climb_within_the_threat(model: torch.nn.Module, images: torch.Tensor, norm: Norm,
                                               epsilon: float) -> None:
    threat = Threat(norm=norm, epsilon=epsilon)
    with frozen(model), torch.no_grad():
        clean = model(images)
    with frozen(model):
        few, many = (trades(model, images, draws(), AdversarialConfig(kind="trades", threat=threat, steps=n)) for n in (1, 10))
        attacked = madry(model, images, LABELS, draws(), AdversarialConfig(kind="pgd", threat=threat))
        with torch.no_grad():
            first, last = (divergence(clean, model(points)).mean() for points in (few, many))
            loss = [torch.nn.functional.cross_entropy(model(points), LABELS) for points in (images, attacked)]
    assert last > 1.05 * first > 0 and loss[1] > loss[0] + 0.05
    for points in (few, many, attacked):
        assert not points.requires_grad and points.min() >= 0 and points.max() <= 1
        assert lengths(points - images, norm).max() <= epsilon + 1e-6


def test_divergence_is_that_of_the_clean_predictions() -> None:
    clean, attacked = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    p = attacked.softmax(-1)[0]
    assert float(divergence(clean, clean)) == pytest.approx(0.0, abs=1e-7)
    assert float(divergence(clean, attacked)) == pytest.approx(float(0.5 * (0.5 / p).log().sum()), abs=1e-6)


def test_a_network_is_attacked_as_it_predicts_and_trains_on(model: torch.nn.Module, images: torch.Tensor) -> None:
    with frozen(model) as asked, torch.no_grad():
        assert torch.equal(asked(images), asked(images)) and not model.training
    assert model.training


def test_attacks_begin_after_a_fraction_of_training_and_cost_passes() -> None:
    config = AdversarialConfig(kind="fgsm", start=0.75)
    assert [config.at(progress).kind for progress in (0.0, 0.74, 0.75)] == ["none", "none", "fgsm"]
    assert [AdversarialConfig(kind=kind, steps=7).passes for kind in ("none", "fgsm", "pgd", "trades")] == [1, 2, 8, 9.5]
    assert [AdversarialConfig(kind=kind).factor for kind in ("fgsm", "trades")] == [1, 6]
