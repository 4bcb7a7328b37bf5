"""The schedule: who is attacked by what, and the robust set of pyautoattack."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Counting, Digits

from squall.algorithms.attacks.autoattack import AutoAttack
from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.projections import lengths
from squall.algorithms.attacks.registry import parse_attack
from squall.platform.seeds import derive_seed

THREATS = {"Linf": Threat(epsilon=0.13), "L2": Threat(norm="l2", epsilon=0.6)}
SHORT = ({"kind": "apgd-ce", "steps": 10}, {"kind": "apgd-t", "steps": 10, "targets": 3}, {"kind": "fab-t", "steps": 10},
         {"kind": "square", "queries": 100})


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_replay_returns_the_robust_set_of_pyautoattack(digits: Digits, norm: str) -> None:
    """In batches of 12, so that who shares a stream with whom changes from attack to attack; few targets, to be quick."""
    import pyautoattack

    some, threat = digits.first(32), THREATS[norm]
    with torch.random.fork_rng():
        theirs = pyautoattack.AutoAttack(digits.model, norm=norm, eps=threat.epsilon, seed=7, version="standard")
        theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 2
        theirs.fab.n_iter, theirs.square.n_queries = 30, 60
        expected, labels = theirs.run_standard_evaluation(some.images.clone(), some.labels.clone(), batch_size=12)
    attack = AutoAttack(mode="replay", seed=7, batch_size=12, components=(
        "apgd-ce", {"kind": "apgd-t", "targets": 2}, {"kind": "fab-t", "targets": 2, "steps": 30},
        {"kind": "square", "queries": 60}))
    outcome = attack.run(Oracle(digits.model, 32), some.images, some.labels, threat, [0] * 32)
    assert attack.indivisible and 5 < outcome.fooled.sum() < 27
    assert torch.equal(outcome.fooled, labels != some.labels)
    by_apgd = torch.tensor([name in ("apgd-ce", "apgd-t") for name in outcome.by])
    assert torch.equal(outcome.adversarial[by_apgd], expected[by_apgd])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_each_attack_gets_what_stood_before_it(digits: Digits, norm: str) -> None:
    some, threat, model = digits.first(60), THREATS[norm], Counting(digits.model)
    attack, oracle, seeds = AutoAttack(components=SHORT), Oracle(model, 60), list(range(200, 260))
    outcome = attack.run(oracle, some.images, some.labels, threat, seeds)
    assert not attack.indivisible
    assert oracle.queries.sum() == model.forward and oracle.gradients.sum() == model.backward
    assert outcome.adversarial.min() >= 0 and outcome.adversarial.max() <= 1
    assert (lengths(outcome.adversarial - some.images, threat.norm) <= threat.epsilon * (1 + 1e-5)).all()
    assert torch.equal(digits.model(outcome.adversarial).argmax(1) != some.labels, outcome.fooled)

    standing = torch.arange(60)
    for entry in SHORT:
        name, component = parse_attack(entry)
        alone = component.run(Oracle(digits.model, len(standing)), some.images[standing], some.labels[standing], threat,
                              [derive_seed(seeds[row], name) for row in standing.tolist()])
        assert [outcome.by[row] for row in standing[alone.fooled].tolist()] == [name] * int(alone.fooled.sum())
        standing = standing[~alone.fooled]
    assert standing.tolist() == (~outcome.fooled).nonzero()[:, 0].tolist() and 0 < len(standing) < 60


def test_images_do_not_depend_on_the_others_of_a_chunk(digits: Digits) -> None:
    attack, some = AutoAttack(components=SHORT), torch.tensor([40, 3, 17, 22])
    whole = attack.run(Oracle(digits.model, 50), digits.images[:50], digits.labels[:50], THREATS["Linf"], range(50))
    part = attack.run(Oracle(digits.model, 4), digits.images[some], digits.labels[some], THREATS["Linf"], some.tolist())
    assert part.by == tuple(whole.by[row] for row in some.tolist())


def test_a_name_of_its_own_says_who_fooled_an_image(digits: Digits) -> None:
    attack = AutoAttack(components=({"kind": "pgd", "name": "first", "steps": 1}, {"kind": "pgd", "name": "second"}))
    outcome = attack.run(Oracle(digits.model, 60), digits.images[:60], digits.labels[:60], THREATS["Linf"], range(60))
    assert set(outcome.by) == {"first", "second", None}
    assert [name is not None for name in outcome.by] == outcome.fooled.tolist()


def test_nothing_left_to_attack(digits: Digits) -> None:
    attack = AutoAttack(components=("pgd", "square"))
    oracle = Oracle(digits.model, 5)
    outcome = attack.run(oracle, digits.images[:5], digits.labels[:5], Threat(epsilon=1.0), range(5))
    assert outcome.by == ("pgd",) * 5 and oracle.queries.max() <= 21
    empty = attack.run(Oracle(digits.model, 0), digits.images[:0], digits.labels[:0], Threat(epsilon=0.1), [])
    assert empty.by == () and len(empty.adversarial) == 0
