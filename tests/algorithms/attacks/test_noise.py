"""The random control."""

from __future__ import annotations

import torch
from attacked_models import Digits

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.noise import Noise
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.attacks.projections import lengths


def test_each_draw_is_a_query_of_an_image_that_stands(digits: Digits) -> None:
    oracle, threat = Oracle(digits.model, 80), Threat(norm="l2", epsilon=2.5)
    outcome = Noise(draws=4).run(oracle, digits.images[:80], digits.labels[:80], threat, range(80))
    assert 0 < outcome.fooled.sum() < 80 and oracle.gradients.sum() == 0
    assert set(oracle.queries[~outcome.fooled].tolist()) == {4}
    assert torch.allclose(lengths(outcome.adversarial - digits.images[:80], "l2"), torch.tensor(2.5), rtol=1e-3)


def test_it_is_weaker_than_a_gradient(digits: Digits) -> None:
    threat, some = Threat(epsilon=0.12), digits.first(80)
    noise, pgd = (attack.run(Oracle(digits.model, 80), some.images, some.labels, threat, range(80)).fooled.sum()
                  for attack in (Noise(), PGD()))
    assert noise < pgd / 2
