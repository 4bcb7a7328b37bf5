"""The seven checks on digit models that are masked on purpose, on honest ones, and on noise that must not set them off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from digit_models import Quantised, Rippled, Scaled, Shuffled, battery, trained
from scipy.stats import binom
from torch import nn

from squall.algorithms.attacks.base import Threat
from squall.algorithms.attacks.noise import Noise
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.masking import black_box, masking_checks, monotone, noise, one_step, unbounded, worst_case
from squall.algorithms.masking_evidence import Evidence, Trial, masking_attacks, role_of
from squall.algorithms.statistics import binomial_tails
from squall.platform.errors import DataError

ROLES = {"pgd": "gradient", "apgd": "gradient", "fgsm": "one_step", "square": "black_box", "noise": "noise", "auto": "schedule"}
NAMES = ("unbounded", "monotone", "black_box", "one_step", "zero_gradients", "noise", "worst_case")


def evidence(fooled: dict[tuple[str, float], int | np.ndarray], images: int = 100, **more) -> Evidence:
    """Attacks at Linf epsilons; a number means that the first so many images fell."""
    arrays = {Trial(name, "linf", epsilon): np.arange(images) < what if isinstance(what, int) else what
              for (name, epsilon), what in fooled.items()}
    return Evidence(arrays, ROLES, "pgd", (1, 8, 8), **more)


def alarms(model: nn.Module) -> set[str]:
    return {check.name for check in masking_checks(battery(model, trained(seed=1))) if check.passed is False}


@pytest.mark.parametrize("adversarial", [True, False])
def test_honest_models_set_off_no_alarm(adversarial):
    """One stands and one falls; neither hides anything, and all seven checks were made."""
    checks = masking_checks(battery(trained(adversarial), trained(seed=1)))
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in NAMES]


@pytest.mark.parametrize("model, expected", [
    (lambda: nn.Sequential(trained(), Scaled(1e3)), {"unbounded", "zero_gradients", "noise", "worst_case"}),
    (lambda: nn.Sequential(trained(True), Scaled(1e3)), {"unbounded", "zero_gradients", "noise", "worst_case"}),
    (lambda: nn.Sequential(Quantised(16), trained()), {"unbounded", "black_box", "zero_gradients", "noise", "worst_case"}),
    (lambda: nn.Sequential(Shuffled(0.1), trained()), {"unbounded", "noise", "worst_case"}),
    (lambda: nn.Sequential(Rippled(0.03), trained()), {"unbounded", "one_step", "noise", "worst_case"}),
    (lambda: nn.Sequential(Rippled(0.1), trained()), {"unbounded", "monotone", "noise", "worst_case"}),
], ids=["saturated", "saturated-robust", "quantised", "random", "rippled", "more-rippled"])
def test_masked_models_are_caught(model, expected):
    assert alarms(model()) == expected


def test_transfer_beats_cross_entropy_where_it_saturates():
    """As long as no attack that is blind to scale is among the gradient attacks."""
    found = battery(nn.Sequential(trained(), Scaled(1e3)), trained(seed=1))
    fooled = {trial: array for trial, array in found.fooled.items() if not trial.attack.startswith("apgd")}
    assert black_box(found).passed and black_box(replace(found, fooled=fooled)).passed is False


def test_logits_that_were_large_in_training_mask_nothing():
    """Training brings them back: only a scale that comes afterwards saturates."""
    assert alarms(trained(scale=1000.0)) == set()


def test_an_unlimited_attack_may_leave_what_chance_leaves():
    check = unbounded(evidence({("pgd", 1.0): 97, ("apgd", 1.0): 90}))
    assert (check.passed, check.value, check.bound) == (True, 0.03, 0.04)
    check = unbounded(evidence({("pgd", 1.0): 95, ("pgd", 0.1): 20}))
    assert (check.passed, check.value) == (False, 0.05)
    assert check.message == "5 of 100 attacked images stand though pgd may change everything: its gradients lead nowhere."
    assert unbounded(evidence({("square", 1.0): 10, ("pgd", 0.5): 10})).passed is None


def test_accuracy_must_not_rise_with_the_budget():
    check = monotone(evidence({("pgd", 0.1): 40, ("pgd", 0.2): 60, ("pgd", 0.4): 45}))
    assert (check.passed, check.value) == (False, 0.15)
    assert check.message.startswith("15 of 100 images fell to pgd at linf 0.2 and not at 0.4, 0 the other way round:")
    assert monotone(evidence({("pgd", 0.1): 40, ("pgd", 0.2): 36, ("fgsm", 0.1): 40, ("fgsm", 0.2): 5})).passed
    assert monotone(evidence({("pgd", 0.1): 40, ("apgd", 0.2): 5})).passed is None


def test_the_blind_must_not_see_more():
    assert black_box(evidence({("pgd", 0.1): 30, ("square", 0.1): 50})).passed is False
    assert black_box(evidence({("pgd", 0.1): 30, ("apgd", 0.1): 52, ("square", 0.1): 50})).passed
    assert black_box(evidence({("pgd", 0.1): 30, ("square", 0.2): 50})).passed is None
    assert one_step(evidence({("pgd", 0.1): 30, ("fgsm", 0.1): 40})).passed is False
    assert one_step(evidence({("fgsm", 0.1): 30, ("pgd", 0.2): 40})).passed is None


def test_a_few_images_of_very_many_are_no_alarm_however_sure():
    assert one_step(evidence({("pgd", 0.1): 5000, ("fgsm", 0.1): 5090}, images=10_000)).passed
    assert one_step(evidence({("pgd", 0.1): 5000, ("fgsm", 0.1): 5110}, images=10_000)).passed is False


def test_noise_needs_an_attack_that_does_something():
    assert noise(evidence({("pgd", 0.1): 2, ("noise", 0.1): 1})).passed is None  # a robust model at a small budget
    assert noise(evidence({("pgd", 0.1): 12, ("noise", 0.1): 11})).passed is False
    assert noise(evidence({("pgd", 1.0): 2, ("noise", 1.0): 1})).passed is False  # everything was allowed
    assert noise(evidence({("pgd", 0.1): 12, ("noise", 0.1): 11, ("pgd", 0.2): 60, ("noise", 0.2): 20})).passed
    assert noise(evidence({("pgd", 0.1): 60, ("noise", 0.1): 20, ("pgd", 0.2): 60, ("noise", 0.2): 80})).passed is False


def test_the_headline_must_be_near_the_worst_case():
    check = worst_case(evidence({("pgd", 0.1): 30, ("auto", 0.1): 38, ("square", 0.2): 90}))
    assert (check.passed, check.value, check.bound) == (True, 0.08, 0.11)
    assert worst_case(evidence({("pgd", 0.1): 30, ("auto", 0.1): 42})).passed is False
    apart = {("pgd", 0.1): np.arange(100) < 30, ("auto", 0.1): np.arange(100) >= 85, ("noise", 0.1): np.arange(100) >= 95}
    assert worst_case(evidence(apart)).value == 0.15
    assert worst_case(evidence({("auto", 0.1): 30, ("square", 0.1): 42})).passed is None


def test_with_nothing_measured_nothing_is_said():
    for checks in (masking_checks(evidence({})), masking_checks(evidence({("pgd", 0.1): 3, ("noise", 0.1): 9}, images=9))):
        assert [(check.name, check.passed, check.value, check.bound) for check in checks] == [(name, None, None, None)
                                                                                             for name in NAMES]
        assert all(check.message.startswith("Not measured: it needs ") for check in checks)


def test_chance_sets_off_one_alarm_in_a_hundred_at_most():
    """Attacks that are equals, each with luck of its own, at four budgets."""
    rng = np.random.default_rng(0)
    counts = {name: 0 for name in ("monotone", "black_box", "one_step")}
    tried = [(name, epsilon) for epsilon in (0.1, 0.2, 0.3, 0.4) for name in ("pgd", "fgsm", "square")]
    for _ in range(300):
        fooled = {one: rng.random(120) < 0.5 for one in tried}
        for check in masking_checks(evidence(fooled, images=120)):
            if check.name in counts and check.passed is False:
                counts[check.name] += 1
    assert max(counts.values()) <= 7  # of 300 with a chance of 1 % each, more than 7 come once in a hundred times


def test_tails_of_a_binomial():
    np.testing.assert_allclose(binomial_tails(3, 0.5), [1, 7 / 8, 4 / 8, 1 / 8])
    assert binomial_tails(0, 0.5).tolist() == [1]
    np.testing.assert_allclose(binomial_tails(10_000, 0.01)[:200], binom.sf(np.arange(200) - 1, 10_000, 0.01), rtol=1e-6)


def test_what_a_run_must_try():
    probes = masking_attacks(Threat(epsilon=0.3), (1, 28, 28), {"kind": "pgd", "name": "mine", "steps": 7})
    names = [probe.entry if isinstance(probe.entry, str) else probe.entry["name"] for probe in probes]
    budgets = [(name, probe.threat.epsilon) for name, probe in zip(names, probes, strict=True)]
    assert budgets == [("mine", 0.3), ("mine", 0.6), ("noise", 0.3), ("noise", 0.6), ("noise", 1), ("fgsm", 0.3),
                       ("square", 0.3), ("pgd-unlimited", 1)]
    assert masking_attacks(Threat(norm="l2", epsilon=0.5), (3, 4, 3))[-1].threat == Threat(norm="l2", epsilon=6)


def test_roles_of_attacks():
    assert [role_of(attack) for attack in (PGD(), PGD(steps=1), Noise())] == ["gradient", "one_step", "noise"]


@pytest.mark.parametrize("fooled, message", [
    ({("pgd", 0.1): np.zeros(5, bool), ("pgd", 0.2): np.zeros(6, bool)}, "shapes"),
    ({("odd", 0.1): 3}, "attack 'odd' has no role; known: apgd, auto"),
])
def test_evidence_that_does_not_fit_together_is_refused(fooled, message):
    with pytest.raises(DataError, match=message):
        evidence(fooled)
