"""What the page of an attack compares: its models, or a trial's arms with their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from squall.platform.attack_card import Arm, AttackCard, ModelResult, transfer_parts
from squall.platform.report_card import Estimate

WORST, TRANSFER, CLEAN = "worst", "transfer", "clean"
"""Figures beside those of single attacks. All transfers onto a model count as one, the one that left the fewest."""
PGD, AUTOATTACK = "pgd", "autoattack"
ROLES = (PGD, AUTOATTACK, TRANSFER)
"""What the honest trial sets against each other, before the worst case."""

Threat: TypeAlias = tuple[str, float]
"""Norm and epsilon."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, or an arm of a trial with the means over its seeds."""

    name: str
    clean: Estimate
    figures: Mapping[tuple[str, Threat], Estimate]
    """Accuracy under an attack, `TRANSFER` or `WORST`, within a threat."""
    models: tuple[ModelResult, ...]
    arm: Arm | None = None
    seeds: Mapping[tuple[str, Threat], tuple[float, ...]] = field(default_factory=dict)
    """Of an arm: the figure of every seed."""

    def under(self, attack: str | None, threat: Threat | None) -> Estimate | None:
        return None if attack is None or threat is None else self.figures.get((attack, threat))

    def attacks(self) -> list[str]:
        """In the order in which they stand in the card, transfer last; without the worst case."""
        names = dict.fromkeys(attack for attack, _ in self.figures if attack not in (WORST, TRANSFER))
        return [*names, *([TRANSFER] if any(attack == TRANSFER for attack, _ in self.figures) else [])]


def subjects(card: AttackCard) -> list[Subject]:
    """The arms of a trial, then the models that belong to none; without a trial the models."""
    names = {arm.name for arm in card.arms}
    return [_arm(arm, [model for model in card.models if model.arm == arm.name]) for arm in card.arms] + \
           [model_subject(card, model) for model in card.models if model.arm not in names]


def attack_names(found: Sequence[Subject]) -> list[str]:
    """Attacks of all subjects, transfer last."""
    names = list(dict.fromkeys(name for subject in found for name in subject.attacks()))
    return sorted(names, key=lambda name: name == TRANSFER)


def main_threat(card: AttackCard) -> Threat | None:
    """The first budget of the run; None where no attack was finished."""
    return next(((budget.norm, budget.epsilon) for model in card.models for budget in model.budgets), None) or \
        next(((figure.norm, figure.epsilon) for arm in card.arms for figure in arm.figures
              if figure.norm is not None and figure.epsilon is not None), None)


def threats(found: Sequence[Subject]) -> list[Threat]:
    """All budgets, by norm in the order of the card, then by size."""
    known = list(dict.fromkeys(threat for subject in found for _, threat in subject.figures))
    norms = list(dict.fromkeys(norm for norm, _ in known))
    return sorted(known, key=lambda threat: (norms.index(threat[0]), threat[1]))


def role(card: AttackCard, attack: str) -> str | None:
    """Which of `ROLES` an attack has, by its kind where the card says how it was set, otherwise by its name."""
    if is_transfer(attack):
        return TRANSFER
    kind = kinds(card).get(attack, attack)
    return next((name for name in (PGD, AUTOATTACK) if kind.startswith(name)), None)


def standing(card: AttackCard, subject: Subject, threat: Threat | None) -> dict[str, tuple[str, Estimate]]:
    """(attack, accuracy) by role: the attack of that role that left the fewest, but of PGD the one on trial."""
    headline = card.asked.get("headline", PGD)
    found: dict[str, tuple[str, Estimate]] = {}
    for attack in subject.attacks():
        estimate, part = subject.under(attack, threat), role(card, attack)
        if estimate is None or estimate.value is None or part is None:
            continue
        if part not in found or attack == headline or (
                found[part][0] != headline and estimate.value < (found[part][1].value or 0.0)):
            found[part] = (attack, estimate)
    return found


def is_transfer(attack: str) -> bool:
    return transfer_parts(attack) is not None


def threat_text(threat: Threat | None) -> str:
    """``L∞ 8/255`` or ``L2 0.5``."""
    return "" if threat is None else f"{norm_text(threat[0])} {epsilon_text(threat)}"


def norm_text(norm: str) -> str:
    return {"linf": "L∞", "l2": "L2"}.get(norm, norm)


def epsilon_text(threat: Threat) -> str:
    """``8/255`` where a radius by pixel is a whole or half step of 8-bit pixels and no round number, otherwise the number."""
    norm, epsilon = threat
    halves = round(2 * 255 * epsilon)
    in_steps = norm == "linf" and halves > 0 and abs(2 * 255 * epsilon - halves) < 1e-3 and round(epsilon, 2) != epsilon
    return f"{halves / 2:g}/255" if in_steps else f"{epsilon:.4g}"


def attack_text(attack: str) -> str:
    """Its name as the page writes it, ``pgd made on resnet`` for ``transfer:resnet:pgd``."""
    if attack == WORST:
        return "worst case"
    parts = transfer_parts(attack)
    return attack if parts is None or not parts[0] else f"{parts[1]} made on {parts[0]}"


def measure(value: float | None) -> str:
    """A number of any size with three digits; a dash where it is not defined."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 1e-3:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10.0 ** exponent:.3g}·{power_text(exponent)}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def compact(count: float) -> str:
    """``950``, ``12.3 k``, ``3.6 M`` or ``1.2 G``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.3g}"


def power_text(exponent: int) -> str:
    """``10⁻³``."""
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return str(10 ** exponent) if 0 <= exponent < 4 else f"10{raised}"


def lowest(estimates: Iterable[Estimate | None]) -> Estimate | None:
    known = [one for one in estimates if one is not None and one.value is not None]
    return min(known, key=lambda one: one.value or 0.0, default=None)


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are defined."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def kinds(card: AttackCard) -> dict[str, str]:
    """Kind of each attack, as it was asked for."""
    return {name: str(settings["kind"]) for name, settings in entries(card.asked) if "kind" in settings}


def entries(asked: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(attack, its settings), of a card's ``asked``: of a mapping by name, or of a list of names and settings."""
    attacks = asked.get("attacks") or ()
    found = attacks.items() if isinstance(attacks, Mapping) else (
        (one.get("name", one.get("kind", "")), one) if isinstance(one, Mapping) else (one, {}) for one in attacks)
    return [(str(name), settings if isinstance(settings, Mapping) else {"kind": settings}) for name, settings in found]


def model_subject(card: AttackCard, model: ModelResult) -> Subject:
    """A model by itself, whether it belongs to an arm or not."""
    rows = [(result.attack, (result.norm, result.epsilon), result.robust_accuracy) for result in model.results]
    rows += [(TRANSFER, (one.norm, one.epsilon), one.accuracy) for one in card.transfers
             if one.target == model.name != one.source]
    rows += [(WORST, (budget.norm, budget.epsilon), budget.robust_accuracy) for budget in model.budgets]
    figures: dict[tuple[str, Threat], Estimate] = {}
    for attack, threat, estimate in rows:
        key = (TRANSFER if is_transfer(attack) else attack, threat)
        figures[key] = lowest((estimate, figures.get(key))) or estimate
    return Subject(model.name, model.clean, figures, (model,))


def _arm(arm: Arm, models: Sequence[ModelResult]) -> Subject:
    figures: dict[tuple[str, Threat], Estimate] = {}
    seeds: dict[tuple[str, Threat], tuple[float, ...]] = {}
    clean = Estimate(value=None, low=None, high=None, n=0)
    for one in arm.figures:
        estimate = Estimate(value=one.mean, low=one.low, high=one.high, n=len(one.seeds))
        if one.figure == CLEAN:
            clean = estimate
        if one.norm is None or one.epsilon is None:
            continue
        key = (TRANSFER if is_transfer(one.figure) else one.figure, (one.norm, one.epsilon))
        if key not in figures or lowest((estimate, figures[key])) is estimate:
            figures[key], seeds[key] = estimate, one.seeds
    return Subject(arm.name, clean, figures, tuple(models), arm, seeds)
