"""Auto-PGD: that its steps are those of the authors' code, and what sets it apart from PGD."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Digits

from squall.algorithms.attacks.apgd import APGD, APGDCE, APGDDLR, APGDT
from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import ReplayDraws
from squall.algorithms.attacks.pgd import PGD

THREATS = {"Linf": Threat(epsilon=0.13), "L2": Threat(norm="l2", epsilon=0.7)}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("attack", [APGDCE(steps=60, restarts=2), APGDDLR(steps=60), APGDT(steps=30)], ids=str)
def test_a_replay_goes_bit_for_bit_the_way_of_the_authors_code(digits: Digits, attack: APGD, norm: str) -> None:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    some, threat = digits.first(60), THREATS[norm]
    settings = {"n_iter": attack.steps, "norm": norm, "n_restarts": attack.restarts, "eps": threat.epsilon, "seed": 5}
    with torch.random.fork_rng():
        theirs = (APGDAttack_targeted(digits.model, **settings) if isinstance(attack, APGDT)
                  else APGDAttack(digits.model, loss=attack.loss, **settings))
        expected = theirs.perturb(some.images, some.labels)
    outcome = attack.perturb(Oracle(digits.model, 60, as_given=True), some.images, some.labels, threat, ReplayDraws(5))
    assert 5 < outcome.fooled.sum() < 55
    assert torch.equal(digits.model(expected).argmax(1) != some.labels, outcome.fooled)
    assert torch.equal(outcome.adversarial[outcome.fooled], expected[outcome.fooled])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_beats_as_many_steps_of_pgd(digits: Digits, norm: str) -> None:
    some = digits.first(150)
    outcome, control = (attack.run(Oracle(digits.model, 150), some.images, some.labels, THREATS[norm], range(150))
                        for attack in (APGDCE(steps=50), PGD(steps=50)))
    assert outcome.fooled.sum() >= control.fooled.sum()


def test_images_that_stand_cost_all_steps_and_others_fewer(digits: Digits) -> None:
    oracle = Oracle(digits.model, 60)
    outcome = APGDT(steps=10, targets=4).run(oracle, digits.images[:60], digits.labels[:60], THREATS["Linf"], range(60))
    assert set(oracle.queries[~outcome.fooled].tolist()) == {1 + 4 * 11}
    assert set(oracle.gradients[~outcome.fooled].tolist()) == {4 * 10}
    assert oracle.queries[outcome.fooled].max() < 1 + 4 * 11
