"""Seven checks for gradient masking: signs that attacks by gradient fail for another reason than robustness.

After Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv 1902.06705, section 3). They are pure
functions of which attack fooled which image, compared image by image; what chance explains is no alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from squall.algorithms.attacks.base import Norm
from squall.algorithms.masking_evidence import FEWEST_IMAGES, Evidence, Trial
from squall.algorithms.statistics import binomial_tails
from squall.platform.attack_card import MaskingCheck

LEVEL = 0.01
"""Chance of a false alarm of one check, at most, however many attacks and budgets it compares (Bonferroni)."""
NEGLIGIBLE = 0.01
"""Fraction of images that is too few to matter, however sure it is: one in a hundred that stands, or has no gradient."""
WORST_CASE_GAP = 0.05
"""How much more all attacks together may fool than the headline attack. PGD overrates honest adversarial training by up to
this (Croce and Hein 2020, arXiv 2003.01690, table 2), and masked models by far more."""
HARM = 0.05
"""Fraction of images below which an attack has fooled too few to be told from noise."""


@dataclass(frozen=True)
class Finding:
    """One comparison: it is an alarm where the value is above the bound. Both are fractions of the images."""

    value: float
    bound: float
    seen: str

    @property
    def passed(self) -> bool:
        return self.value <= self.bound


def masking_checks(evidence: Evidence) -> tuple[MaskingCheck, ...]:
    """All seven, in the order of `MaskingCheck.name`. Of many comparisons a check gives the one nearest to an alarm."""
    checks = (unbounded, monotone, black_box, one_step, zero_gradients, noise, worst_case)
    return tuple(check(evidence) for check in checks)


def unbounded(evidence: Evidence) -> MaskingCheck:
    """An attack by gradient that may change everything must fool every image. The value is the fraction that stands."""
    trials = {trial: fooled for trial, fooled in evidence.of("gradient").items() if evidence.is_unlimited(trial)}
    found = [_share(~fooled, NEGLIGIBLE, f"attacked images stand though {trial.attack} may change everything")
             for trial, fooled in trials.items()]
    best = min(found, key=lambda one: one.value, default=None)  # one attack that succeeds shows that gradients lead somewhere
    return _check("unbounded", best, "a gradient attack at an unlimited budget", "its gradients lead nowhere", "as it should")


def monotone(evidence: Evidence) -> MaskingCheck:
    """A larger budget holds the smaller one: no fewer images may fall. The value is the fraction by which they are fewer."""
    trials = evidence.of("gradient")
    pairs = [(small, large) for small in trials for large in trials
             if small[:2] == large[:2] and small.epsilon < large.epsilon]
    found = [_excess(trials[small], trials[large], len(pairs),
                     f"images fell to {small} and not at {large.epsilon:.4g}")
             for small, large in pairs]
    return _check("monotone", _nearest(found), "a gradient attack at two budgets", "the attack loses its way with more room",
                  "more room makes it no weaker")


def black_box(evidence: Evidence) -> MaskingCheck:
    """Who sees gradients must fool no fewer images than who does not. The value is the fraction by which they are fewer."""
    found = _against(evidence, evidence.of("black_box"), evidence.best_gradient_attack)
    return _check("black_box", _nearest(found), "Square or transfer beside a gradient attack at one budget",
                  "gradients hide what can be found without them", "who sees gradients finds more")


def one_step(evidence: Evidence) -> MaskingCheck:
    """Many steps must fool no fewer images than one. The value is the fraction by which they are fewer."""
    found = _against(evidence, evidence.of("one_step"), evidence.gradient_attack)
    return _check("one_step", _nearest(found), "PGD of one step beside PGD of many at one budget",
                  "gradients mislead beyond the first step", "further steps do no harm")


def zero_gradients(evidence: Evidence) -> MaskingCheck:
    """An attack cannot follow a gradient that is zero. The value is the fraction of images whose is, in float32."""
    zero = evidence.zero_gradients
    measured = zero is not None and len(zero) >= FEWEST_IMAGES
    found = _share(zero, NEGLIGIBLE, "images have a gradient of exactly zero in float32") if measured else None
    return _check("zero_gradients", found, "the gradient indicators", "an attack by gradient cannot move there",
                  "attacks have something to follow")


def noise(evidence: Evidence) -> MaskingCheck:
    """An attack must fool more images than noise of equal norm at some budget, and fewer at none.

    The value is the fraction that noise fools minus the one that the attack fools.
    """
    pairs = [(trial, attack) for trial in evidence.of("noise") if (attack := evidence.gradient_attack(*trial[1:]))]
    worse = _against(evidence, evidence.of("noise"), evidence.gradient_attack)
    weaker = _nearest(worse)
    if weaker is not None and weaker.passed:
        better = [_advantage(evidence.fooled[attack], evidence.fooled[trial], len(pairs), _alone(attack, trial))
                  for trial, attack in pairs]
        told = [one for one, (_, attack) in zip(better, pairs, strict=True)
                if one.passed or evidence.is_unlimited(attack) or evidence.fooled[attack].mean() >= HARM]
        weaker = min(told, key=_margin, default=None)
    return _check("noise", weaker, f"noise beside an attack that fools {HARM:.0%} of the images at one budget",
                  "the attack is no better than chance", "the attack finds what chance does not")


def worst_case(evidence: Evidence) -> MaskingCheck:
    """All attacks together must not do far better than the headline. The value is the fraction that only the others fool."""
    headlines = [trial for trial in evidence.fooled if trial.attack == evidence.headline]
    found = []
    for headline in headlines:
        fooled = evidence.fooled[headline]
        others = [other for trial, other in evidence.fooled.items() if trial[1:] == headline[1:] and trial != headline]
        if others and len(fooled) >= FEWEST_IMAGES:
            missed = np.logical_or.reduce(others) & ~fooled
            seen = f"attacked images are missed by {headline} and fooled by another attack"
            found.append(_share(missed, WORST_CASE_GAP, seen, len(headlines)))
    return _check("worst_case", _nearest(found), f"{evidence.headline} beside another attack at one budget",
                  f"{evidence.headline} alone says nothing about this model", f"{evidence.headline} is near the worst case")


def _against(evidence: Evidence, trials: Mapping[Trial, np.ndarray], choose: Callable[[Norm, float], Trial | None]
             ) -> list[Finding]:
    """Each trial beside the attack that should be no weaker, where it was tried."""
    pairs = [(trial, attack) for trial in trials if (attack := choose(trial.norm, trial.epsilon))]
    return [_excess(evidence.fooled[trial], evidence.fooled[attack], len(pairs), _alone(trial, attack))
            for trial, attack in pairs]


def _alone(first: Trial, second: Trial) -> str:
    return f"images fell to {first} and not to {second.attack}"


def _share(hits: np.ndarray, share: float, seen: str, tests: int = 1) -> Finding:
    """How many of n images were hit, against the most that chance makes of a true `share` (exact binomial test)."""
    n, count = len(hits), int(hits.sum())
    likely = int(np.flatnonzero(binomial_tails(n, share) >= LEVEL / tests).max())
    return Finding(count / n, likely / n, f"{count} of {n} {seen}")


def _excess(weak: np.ndarray, strong: np.ndarray, tests: int, seen: str) -> Finding:
    """How many more of n images the weak attack fooled, against what chance makes of equals (one-sided McNemar's test)."""
    n, weak_only, strong_only = len(weak), int((weak & ~strong).sum()), int((strong & ~weak).sum())
    differ = weak_only + strong_only
    likely = int(np.flatnonzero(binomial_tails(differ, 0.5) >= LEVEL / tests).max())
    bound = max(2 * likely - differ, int(NEGLIGIBLE * n))
    return Finding((weak_only - strong_only) / n, bound / n, f"{weak_only} of {n} {seen}, {strong_only} the other way round")


def _advantage(strong: np.ndarray, weak: np.ndarray, tests: int, seen: str) -> Finding:
    """As `_excess`, passed only where the strong attack fooled surely more: the bound is below 0."""
    n, strong_only, weak_only = len(weak), int((strong & ~weak).sum()), int((weak & ~strong).sum())
    differ = weak_only + strong_only
    enough = int(np.flatnonzero(binomial_tails(differ, 0.5) >= LEVEL / tests).max()) + 1
    return Finding((weak_only - strong_only) / n, (differ - 2 * enough) / n,
                   f"{strong_only} of {n} {seen}, {weak_only} the other way round")


def _margin(finding: Finding) -> float:
    return finding.value - finding.bound


def _nearest(findings: Sequence[Finding]) -> Finding | None:
    return max(findings, key=_margin, default=None)


def _check(name: str, finding: Finding | None, needs: str, alarm: str, quiet: str) -> MaskingCheck:
    if finding is None:
        return MaskingCheck(name=name, passed=None, value=None, bound=None,
                            message=f"Not measured: it needs {needs}, on {FEWEST_IMAGES} images or more.")
    return MaskingCheck(name=name, passed=finding.passed, value=round(finding.value, 6), bound=round(finding.bound, 6),
                        message=f"{finding.seen}: {quiet if finding.passed else alarm}.")
