"""The card of an attack run, from its rows and from what was measured once per model. It needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from squall.algorithms.attacks.registry import parse_attack
from squall.algorithms.bootstrap import Bootstrap
from squall.algorithms.masking import masking_checks
from squall.algorithms.masking_evidence import Evidence, Role, Trial, role_of
from squall.algorithms.robustness import RESAMPLES, SHARE, UNKNOWN
from squall.jobs.attack_doubts import card_doubts, model_doubts
from squall.jobs.attack_standing import Standing, Standings, Trials, read_standings
from squall.platform.attack_card import (
    AttackCard,
    AttackResult,
    Budget,
    Indicators,
    MaskingCheck,
    ModelResult,
    Transfer,
    transfer_parts,
)
from squall.platform.report_card import Estimate

SEED = 0
"""Of the bootstrap: the same rows always give the same card."""
DIGITS = 6
FACTS = ("name", "data", "asked", "provenance", "lost", "notes", "arms", "contrasts")
MODEL_FACTS = ("name", "path", "hash", "arm", "seed", "indicators", "landscape", "training")
"""Fields of a card and of its models that do not follow from the rows."""


def build_attack_card(table: pa.Table, facts: Mapping[str, Any]) -> AttackCard:
    """Compute the card of a run.

    Args:
        table: rows as in `ATTACKS`.
        facts: fields of `AttackCard` that do not follow from them: name, data, asked, provenance, and where there are any
            lost, notes, arms, contrasts; and ``models``, in their order, each with its name, path, hash and where there are
            any arm, seed, training, indicators, landscape.

    Raises:
        DataError: rows are there twice, or do not belong together.
    """
    standings = standings_of(table, facts["asked"])
    models, transfers = [], []
    for known in facts["models"]:
        if known["name"] not in standings.models:
            models.append(ModelResult(**known, clean=UNKNOWN, budgets=(), results=(),
                                      unreliable=("It answered nothing about the images as they are.",)))
            continue
        sheet = _Sheet(known["name"], standings, facts)
        models.append(_judged(known, sheet))
        transfers += sheet.transfers()
    card = AttackCard(**{**facts, "models": tuple(models), "transfers": tuple(transfers)})
    return card.model_copy(update={"unreliable": card_doubts(card)})


def standings_of(table: pa.Table, asked: Mapping[str, Any]) -> Standings:
    """Which images fell to what in a run that asked this. Raises DataError where rows are there twice."""
    return read_standings(table, [Trial(*strike) for strike in asked["strikes"]], asked["chunk"])


def facts_of(card: AttackCard) -> dict[str, Any]:
    """What `build_attack_card` needs beside the rows to make a card again."""
    models = [{name: getattr(model, name) for name in MODEL_FACTS} for model in card.models]
    return {name: getattr(card, name) for name in FACTS} | {"models": models}


def roles_asked(asked: Mapping[str, Any]) -> dict[str, Role]:
    """What each attack of a run may know, by name."""
    return {name: role_of(attack) for name, attack in map(parse_attack, asked["attacks"])}


def _judged(known: Mapping[str, Any], sheet: _Sheet) -> ModelResult:
    model = ModelResult(**{**known, "clean": sheet.estimate("clean"), "budgets": tuple(sheet.budgets()),
                           "results": tuple(sheet.results())})
    model = model.model_copy(update={"checks": _checks(model.indicators, sheet)})
    return model.model_copy(update={"unreliable": model_doubts(model, sheet.standings, sheet.facts)})


@dataclass
class _Sheet:
    """Figures of one model, all computed from the same draws of images."""

    name: str
    standings: Standings
    facts: Mapping[str, Any]
    _rests_on: dict[Any, int] = field(default_factory=dict)
    _figures: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        everything = np.ones(len(self.own.images), bool)
        self._add("clean", self.own.right, everything)
        for trial, one in self.own.trials.items():
            self._add(trial, self.own.right & ~one.fooled, self.standings.known(self.name, trial))
        for norm, epsilon in self._asked():
            fooled, known = self.standings.fell(self.name, norm, epsilon)
            self._add((norm, epsilon), self.own.right & ~fooled, known)
        draws = self._figures.draw(RESAMPLES, SEED)
        self._estimates = dict(zip(self._rests_on, zip(draws.values, *draws.interval(), strict=True), strict=True))

    @property
    def own(self) -> Standing:
        return self.standings.models[self.name]

    def estimate(self, figure: Any) -> Estimate:
        """A share of the images with its interval; unknown where not two of them are known."""
        count = self._rests_on[figure]
        return Estimate.of(*self._estimates[figure], count, SHARE) if count > 1 else UNKNOWN.model_copy(update={"n": count})

    def results(self) -> Iterator[AttackResult]:
        """The model's own attacks, in the order of the rows."""
        for trial, one in self.own.trials.items():
            if transfer_parts(trial.attack) is None:
                yield AttackResult(attack=trial.attack, norm=trial.norm, epsilon=trial.epsilon,
                                   robust_accuracy=self.estimate(trial), attacked=int(one.tried.sum()), **_passes(one))

    def transfers(self) -> Iterator[Transfer]:
        """Examples of other models."""
        for trial in self.own.trials:
            if parts := transfer_parts(trial.attack):
                yield Transfer(source=parts[0], target=self.name, attack=parts[1], norm=trial.norm, epsilon=trial.epsilon,
                               accuracy=self.estimate(trial))

    def budgets(self) -> Iterator[Budget]:
        """The worst case at every budget that was asked for."""
        for norm, epsilon in self._asked():
            tried = {trial: self.estimate(trial).value for trial in self.own.at(norm, epsilon)}
            known = {trial: value for trial, value in tried.items() if value is not None}
            worst = min(known, key=lambda trial: known[trial], default=None)
            yield Budget(norm=norm, epsilon=epsilon, robust_accuracy=self.estimate((norm, epsilon)),
                         worst_attack=None if worst is None else worst.attack)

    def _asked(self) -> list[tuple[str, float]]:
        return [(one["norm"], one["epsilon"]) for one in self.facts["asked"]["budgets"]]

    def _add(self, figure: Any, holds: np.ndarray, known: np.ndarray) -> None:
        self._rests_on[figure] = int(known.sum())
        whole = known if known.sum() > 1 else np.ones_like(known)  # one image has no interval, and its figure is not shown
        self._figures.add((holds & whole)[:, None].astype(np.float64), whole[:, None].astype(np.float64), np.ones(1))


def _passes(one: Trials) -> dict[str, float | None]:
    """Passes per attacked image."""
    queries, gradients = one.queries[one.tried], one.gradients[one.tried]
    if not len(queries):
        return {"queries_mean": None, "queries_median": None, "gradients_mean": None}
    return {"queries_mean": round(float(queries.mean()), DIGITS), "queries_median": float(np.median(queries)),
            "gradients_mean": round(float(gradients.mean()), DIGITS)}


def _checks(indicators: Indicators | None, sheet: _Sheet) -> tuple[MaskingCheck, ...]:
    """The seven, over the images on which all was tried of which something is known."""
    own, roles = sheet.own, roles_asked(sheet.facts["asked"])
    made = {trial: one for trial, one in own.trials.items() if one.tried.any()}
    missing = [sheet.standings.missing(sheet.name, trial) for trial in made]
    whole = own.right & ~np.logical_or.reduce(missing) if missing else own.right
    zero = None
    if indicators is not None:
        zero = np.arange(indicators.images) < round(indicators.zero_gradients * indicators.images)
    fooled: dict[Trial, np.ndarray] = {trial: one.fooled[whole] for trial, one in made.items()}
    shown: dict[str, Role] = {trial.attack: "black_box" for trial in fooled if transfer_parts(trial.attack)}
    return masking_checks(Evidence(fooled, roles | shown, sheet.facts["asked"]["headline"],
                                   tuple(sheet.facts["data"]["shape"]), zero))
