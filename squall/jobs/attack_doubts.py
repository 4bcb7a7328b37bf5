"""Reasons not to trust a figure of robust accuracy, each a sentence that says what was found and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from squall.jobs.attack_standing import Standings
from squall.platform.attack_card import AttackCard, ModelResult

FEWEST_IMAGES = 100
"""With so many an interval reaches up to ten points to either side."""
BLIND = "square"
ENSEMBLE = "autoattack"
FOLLOWS_NOTHING = ("noise",)


def card_doubts(card: AttackCard) -> tuple[str, ...]:
    """What speaks against all figures of a card."""
    images = max((model.clean.n for model in card.models), default=0)
    if 0 < images < FEWEST_IMAGES:
        return (f"Only {images} images were looked at: with fewer than {FEWEST_IMAGES} no figure is known to ten points.",)
    return ()


def model_doubts(model: ModelResult, standings: Standings, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What speaks against one model's robust accuracy."""
    return tuple([*_of_clean(model, len(facts["data"]["classes"])), *_of_attacks(model, facts["asked"]["attacks"]),
                  *_of_checks(model), *_of_losses(model, standings)])


def _of_clean(model: ModelResult, classes: int) -> Iterator[str]:
    clean = model.clean
    if clean.low is not None and clean.low <= 1 / classes:
        yield (f"Clean accuracy {clean.value:.3f} [{clean.low:.3f}, {clean.high:.3f}] is not above chance ({1 / classes:.3f}): "
               "there is nothing to attack.")


def _of_attacks(model: ModelResult, attacks: list[Mapping[str, Any]]) -> Iterator[str]:
    """A model that hides its gradients stands against all that follow them; and one loss may be the one that it hides."""
    found: dict[str, list[str]] = {}
    for budget in model.budgets:
        made = [one.attack for one in model.results if (one.norm, one.epsilon) == (budget.norm, budget.epsilon)]
        kinds = {one["kind"] for one in attacks if one["name"] in made}
        where = f"{budget.norm} {budget.epsilon:.4g}"
        if not kinds - set(FOLLOWS_NOTHING):
            found.setdefault("the model was not attacked by anything but noise.", []).append(where)
        elif not kinds & {BLIND, ENSEMBLE}:
            shown = ", ".join(name for name in made if _kind(name, attacks) not in FOLLOWS_NOTHING)
            reason = (f"robust accuracy rests on {shown} alone, on following gradients: a model that hides its own looks "
                      f"robust to that. Attack it with {ENSEMBLE} and {BLIND} too.")
            found.setdefault(reason, []).append(where)
    for reason, places in found.items():
        yield f"At {' and '.join(places)} {reason}"


def _of_checks(model: ModelResult) -> Iterator[str]:
    for check in model.checks:
        if check.passed is False:
            yield f"Sign of gradient masking ({check.name}): {check.message}"


def _of_losses(model: ModelResult, standings: Standings) -> Iterator[str]:
    for budget in model.budgets:
        trials = standings.models[model.name].at(budget.norm, budget.epsilon)
        lost = {trial.attack: int(standings.missing(model.name, trial).sum()) for trial in trials}
        if any(lost.values()):
            most = max(lost, key=lambda name: lost[name])
            yield (f"At {budget.norm} {budget.epsilon:.4g} the work of {most} on {lost[most]} images was lost: robust accuracy "
                   f"is over {budget.robust_accuracy.n} of {model.clean.n} images, chunks in which all is known.")


def _kind(name: str, attacks: list[Mapping[str, Any]]) -> str:
    return next(one["kind"] for one in attacks if one["name"] == name)
