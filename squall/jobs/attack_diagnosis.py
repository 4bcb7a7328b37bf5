"""What the gradients of attacked models look like: indicators over some images, and the loss around one of them.

Each model's figures are one row of the ledger, which stands for all passes that they took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from squall.actors.attack_pool import Failed
from squall.actors.diagnosis_tasks import Measure, Measured, Survey
from squall.actors.query_ledger import Call, QueryLedger, call_key
from squall.algorithms.attacks.base import Threat
from squall.algorithms.gradient_indicators import IndicatorConfig, joined, summarise
from squall.algorithms.landscape import Landscape, LandscapeConfig
from squall.jobs.attack_crew import Crew, Work
from squall.jobs.attack_memory import Targets
from squall.jobs.attack_table import Record
from squall.platform.config import Config
from squall.platform.runs import to_json, write_text

if TYPE_CHECKING:
    from squall.jobs.attack_models import AttackedModel

INDICATORS, LANDSCAPE = "indicators", "landscape"
LANDSCAPES = "landscapes"
"""Folder of the landscapes in the run directory."""
DIGITS = 6


class DiagnosisConfig(Config):
    """What is measured of each model's gradients, at the first budget."""

    images: int = Field(128, ge=1)
    """The first so many of the run's images, right or wrong; fewer where there are fewer."""
    indicators: IndicatorConfig | None = IndicatorConfig()
    """AGN, IGV, dIGV, GSUA and the share of zero gradients; null leaves them out."""
    landscape: LandscapeConfig | None = LandscapeConfig()
    """The loss around the first image that every model has right; null leaves it out."""


@dataclass(frozen=True)
class Findings:
    """What was measured."""

    replies: Mapping[tuple[str, str], Any]
    """By (`INDICATORS` or `LANDSCAPE`, hash of the model)."""
    lost: tuple[str, ...]

    def facts(self, folder: Path, name: str, hash_: str) -> dict[str, Any]:
        """Fields of `ModelResult`; writes the model's landscape into the run directory."""
        facts: dict[str, Any] = {INDICATORS: self.replies.get((INDICATORS, hash_)), LANDSCAPE: None}
        if record := self.replies.get((LANDSCAPE, hash_)):
            facts[LANDSCAPE] = f"{LANDSCAPES}/{name}.json"
            (folder / LANDSCAPES).mkdir(exist_ok=True)
            write_text(folder / LANDSCAPES / f"{name}.json", to_json(record) + "\n")
        return facts


@dataclass(frozen=True)
class Question:
    """One measurement of one model."""

    what: str
    model: AttackedModel
    number: int
    rows: np.ndarray
    settings: Mapping[str, Any]

    def key(self, targets: Targets, threat: Threat) -> str:
        """Of its row in the ledger."""
        asked = {self.what: self.settings, "threat": threat.model_dump(mode="json")}
        return call_key(self.model.hash, asked, [targets.seeds[row] for row in self.rows],
                        "".join(targets.hashes[row] for row in self.rows))


@dataclass
class _Answer:
    """Parts of a measurement as they come in."""

    wanted: int
    parts: dict[int, Measured] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.parts) == self.wanted


def diagnose(models: Sequence[AttackedModel], targets: Targets, threat: Threat, config: DiagnosisConfig, record: Record,
             ledger: QueryLedger, crew: Crew) -> Findings:
    """Measure what the ledger does not know yet."""
    questions = _questions(models, targets, config, record)
    keys = {question.key(targets, threat): question for question in questions}
    known = {(keys[key].what, keys[key].model.hash): json.loads(call.reply)
             for key, call in ledger.find_all(list(keys)).items()}
    waiting = {key: question for key, question in keys.items() if (question.what, question.model.hash) not in known}
    answers: dict[str, _Answer] = {}
    work: list[Work[tuple[str, int]]] = []
    for key, question in waiting.items():
        parts = _parts(question, key, targets, threat, config)
        answers[key], work = _Answer(len(parts)), work + parts
    for (key, part), outcome in crew.do("measurements", work):
        answer, question = answers[key], waiting[key]
        if isinstance(outcome, Failed):
            answer.problems.append(outcome.message)
            continue
        answer.parts[part], answer.seconds = outcome.result, answer.seconds + outcome.seconds
        if answer.complete:
            known[question.what, question.model.hash] = _keep(question, key, answer, config, ledger)
    lost = tuple(f"{waiting[key].model.name}, {waiting[key].what}: {answer.problems[0]}"
                 for key, answer in answers.items() if answer.problems)
    return Findings(known, lost)


def _questions(models: Sequence[AttackedModel], targets: Targets, config: DiagnosisConfig, record: Record) -> list[Question]:
    """Of models that are the same, one is asked."""
    rights = [record.right(model.hash) for model in models]
    common = np.logical_and.reduce(rights)
    questions, seen = [], set()
    for number, (model, right) in enumerate(zip(models, rights, strict=True)):
        if model.hash in seen:
            continue
        seen.add(model.hash)
        if config.indicators is not None:
            rows = np.arange(min(config.images, len(right)))
            questions.append(Question(INDICATORS, model, number, rows, config.indicators.model_dump(mode="json")))
        shown = np.flatnonzero(common if common.any() else right)[:1]
        if config.landscape is not None and len(shown):
            questions.append(Question(LANDSCAPE, model, number, shown, config.landscape.model_dump(mode="json")))
    return questions


def _parts(question: Question, key: str, targets: Targets, threat: Threat,
           config: DiagnosisConfig) -> list[Work[tuple[str, int]]]:
    number, rows = question.number, question.rows
    if question.what == LANDSCAPE:
        assert config.landscape is not None
        points = (2 * config.landscape.points_per_side + 1) ** 2
        make = partial(Survey, number, int(rows[0]), threat, targets.seeds[rows[0]], config.landscape)
        return [Work((key, 0), points, make)]
    assert config.indicators is not None
    passes = 3 * (2 + config.indicators.steps + len(config.indicators.radii) * config.indicators.samples)
    wanted = np.isin(np.arange(len(targets.positions)), rows)
    return [Work((key, chunk), passes * len(own), partial(
        Measure, number, own, threat, tuple(targets.seeds[row] for row in own), config.indicators))
        for chunk, own in targets.parts(wanted)]


def _keep(question: Question, key: str, answer: _Answer, config: DiagnosisConfig, ledger: QueryLedger) -> Any:
    """Enter a measurement that is complete; returns it as plain values."""
    parts = [answer.parts[number] for number in sorted(answer.parts)]  # sums in one order, whichever worker was faster
    if question.what == LANDSCAPE:
        reply = _drawn(parts[0].found)
    else:
        assert config.indicators is not None
        reply = summarise(joined([part.found for part in parts]), config.indicators).model_dump(mode="json")
    text = to_json(reply)
    ledger.store(Call(key, question.model.hash, question.what, text, seconds=answer.seconds,
                      queries=sum(part.queries for part in parts), gradients=sum(part.gradients for part in parts)))
    return json.loads(text)


def _drawn(landscape: Landscape) -> dict[str, Any]:
    """As the page reads it: axes in the norm's units, loss in nats, first direction by second."""
    axis = landscape.axis.tolist()
    return {**landscape.record.model_dump(mode="json"), "alphas": axis, "betas": axis,
            "loss": np.round(landscape.loss.astype(np.float64), DIGITS).tolist(),
            "correct": landscape.correct.astype(int).tolist()}
