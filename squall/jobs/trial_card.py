"""A trial's arms and what sets them apart, from the rows of its attacks and the results of its models.

A figure of an arm is the mean over its seeds. Its interval is a bootstrap over images of what the seeds reach on average, and
how far seeds lie apart is shown beside it, as in an ablation. Two arms are compared on the same images and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.algorithms.statistics import holm, mcnemar_exact, paired_bootstrap
from squall.jobs.attack_standing import Standing, Standings
from squall.jobs.console import say, say_table
from squall.platform.attack_card import CLEAN, Arm, ArmContrast, ArmFigure, AttackCard, ModelResult, transfer_parts
from squall.platform.report_card import Estimate

TRANSFER, WORST = "transfer", "worst"
INDICATORS = ("agn", "igv", "digv", "gsua", "sign_consistency", "zero_gradients")
CLAIMS_FROM = 3
"""Seeds from which on a trial says that arms differ."""


@dataclass(frozen=True)
class Key:
    """Of a figure."""

    figure: str
    norm: str | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class ArmScores:
    """Models of an arm, a row each in the order of their seeds."""

    name: str
    models: tuple[ModelResult, ...]
    scores: Mapping[Key, np.ndarray]
    """bool (S, N): whether the model is right about the image."""

    def mean(self, key: Key) -> np.ndarray:
        """(N,): over the seeds."""
        return self.scores[key].mean(axis=0)


def arm_scores(name: str, models: Sequence[ModelResult], standings: Standings) -> ArmScores:
    """What every model of an arm says about every image; a figure that one of them lacks is left out."""
    ordered = tuple(sorted(models, key=lambda model: model.seed or 0))
    found = [dict(_scores(standings.models[model.name])) for model in ordered]
    common = [key for key in found[0] if all(key in other for other in found)]
    return ArmScores(name, ordered, {key: np.stack([own[key] for own in found]) for key in common})


def make_arm(arm: ArmScores, description: str) -> Arm:
    """The arm with its figures."""
    figures = [_figure(arm, key) for key in arm.scores]
    figures += [ArmFigure(figure=name, mean=float(np.mean(values)), low=min(values), high=max(values), seeds=values)
                for name in INDICATORS if (values := _indicator(arm.models, name))]
    facts = [model.training for model in arm.models]
    return Arm(name=arm.name, description=description, figures=tuple(figures),
               passes=float(np.mean([one["passes"] for one in facts])),
               seconds=float(np.mean([one["seconds"] for one in facts])))


def make_contrasts(arms: Mapping[str, ArmScores], pairs: Sequence[tuple[str, str]], keys: Sequence[Key]
                   ) -> tuple[ArmContrast, ...]:
    """The second arm minus the first, paired by image and seed; p-values by McNemar, each image one coin, after Holm."""
    cases = [(arms[first], arms[second], key) for first, second in pairs for key in keys
             if key in arms[first].scores and key in arms[second].scores]
    p_values = holm([_p_value(first.scores[key], second.scores[key]) for first, second, key in cases])
    return tuple(ArmContrast(first=first.name, second=second.name, figure=key.figure,
                             change=_change(first.mean(key), second.mean(key)), p_value=p)
                 for (first, second, key), p in zip(cases, p_values, strict=True))


def _scores(own: Standing) -> Iterator[tuple[Key, np.ndarray]]:
    yield Key(CLEAN), own.right
    budgets = dict.fromkeys((trial.norm, trial.epsilon) for trial in own.trials)
    for norm, epsilon in budgets:
        stands = {trial: own.right & ~one.fooled for trial, one in own.at(norm, epsilon).items()}
        shown = [one for trial, one in stands.items() if transfer_parts(trial.attack)]
        for trial, one in stands.items():
            if not transfer_parts(trial.attack):
                yield Key(trial.attack, norm, epsilon), one
        if shown:
            yield Key(TRANSFER, norm, epsilon), min(shown, key=lambda one: one.sum())
        yield Key(WORST, norm, epsilon), np.logical_and.reduce(list(stands.values()))


def _figure(arm: ArmScores, key: Key) -> ArmFigure:
    means = arm.mean(key)
    interval = paired_bootstrap(np.zeros_like(means), means)
    return ArmFigure(figure=key.figure, norm=key.norm, epsilon=key.epsilon, mean=float(means.mean()),
                     low=max(0.0, interval.low), high=min(1.0, interval.high),
                     seeds=tuple(map(float, arm.scores[key].mean(axis=1))))


def _indicator(models: Sequence[ModelResult], name: str) -> tuple[float, ...]:
    values = [getattr(model.indicators, name) for model in models if model.indicators is not None]
    return tuple(values) if len(values) == len(models) and None not in values else ()


def _change(first: np.ndarray, second: np.ndarray) -> Estimate:
    interval = paired_bootstrap(first, second)
    return Estimate.of(interval.diff, interval.low, interval.high, len(first), (-1.0, 1.0))


def _p_value(first: np.ndarray, second: np.ndarray) -> float | None:
    if min(len(first), len(second)) < CLAIMS_FROM or len(first) != len(second):
        return None
    images = np.tile(np.arange(first.shape[1]), len(first))
    return mcnemar_exact(first.ravel(), second.ravel(), images)


def contrast_keys(card: AttackCard) -> list[Key]:
    """What pairs of arms are compared on: clean, and everything that was asked for at the main budget."""
    norm, epsilon = card.asked["budgets"][0]["norm"], card.asked["budgets"][0]["epsilon"]
    asked = [one["name"] for one in card.asked["attacks"]]
    names = list(dict.fromkeys(result.attack for model in card.models for result in model.results
                               if (result.norm, result.epsilon) == (norm, epsilon)))
    return [Key(CLEAN), *(Key(name, norm, epsilon) for name in names if name in asked),
            Key(TRANSFER, norm, epsilon), Key(WORST, norm, epsilon)]


def say_arms(card: AttackCard, console: Console) -> None:
    """A table of the arms at the main budget, in percent, and which are not to be trusted; the page has all attacks."""
    keys = [key for key in contrast_keys(card) if key.figure in (CLEAN, "pgd", "autoattack", TRANSFER, WORST)]
    shown = [key for key in keys if any(_find(arm, key) for arm in card.arms)]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(("arm", *(key.figure for key in shown), "seconds")):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for arm in card.arms:
        table.add_row(arm.name, *("" if (one := _find(arm, key)) is None else f"{100 * one.mean:.1f}" for key in shown),
                      f"{arm.seconds:.0f}")
    budget = card.asked["budgets"][0]
    say(console, f"accuracy in percent, mean over seeds; attacks at {budget['norm']} {budget['epsilon']:.4g}:")
    say_table(console, table)
    for arm in card.arms:
        own = [model for model in card.models if model.arm == arm.name]
        alarms = [check.name for model in own for check in model.checks if check.passed is False]
        if alarms:
            names = ", ".join(f"{name} ({alarms.count(name)})" for name in dict.fromkeys(alarms))
            say(console, f"unreliable: {arm.name}: signs of gradient masking: {names}")


def _find(arm: Arm, key: Key) -> ArmFigure | None:
    return next((one for one in arm.figures if Key(one.figure, one.norm, one.epsilon) == key), None)
