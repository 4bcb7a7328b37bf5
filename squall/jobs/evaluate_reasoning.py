"""The five reasoning metrics of an evaluation: a judge scores traces about clean and corrupted clips, and is checked itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from squall.actors.judges import open_judge
from squall.actors.rubric_scoring import measure_agreement, score_reasoning
from squall.actors.sampling import GroupSampler
from squall.algorithms.bootstrap import Bootstrap
from squall.algorithms.rubrics import RUBRICS
from squall.algorithms.score_matrix import ClusterSums
from squall.jobs.evaluate_output import Journal
from squall.jobs.evaluate_plan import Evaluation
from squall.platform.report_card import Estimate, Reasoning, RubricScore
from squall.platform.rubric_labels import ReasoningTrace, RubricScores
from squall.platform.work_progress import WorkProgress

RESAMPLES = 2000


def judge_reasoning(work: Evaluation, journal: Journal, sampler: GroupSampler, ledger: Path,
                    console: Console) -> Reasoning | None:
    """Have the first answers to the first questions scored, clean and in every condition, and the hand-scored traces too.

    Calls are kept in the ledger, so that a run that goes on asks none of them again. None where no clean answer came in.
    """
    judge = open_judge(work.config.judge, ledger, sampler.judge_engines)
    questions = range(min(work.config.judged_questions, len(work.samples)))
    places, traces = _traces(work, journal, questions)
    if not traces:
        return None
    with WorkProgress("traces judged", len(traces), len(traces), console=console) as progress:
        counter = iter(range(len(traces)))
        scores = score_reasoning(judge, traces, on_scored=lambda trace, outcome: progress.advance(next(counter), 1.0))
    config = work.config.judge
    return Reasoning(judge=config.kind if config.model is None else f"{config.model} ({config.kind})",
                     scores=_figures(work, places, scores), agreement=measure_agreement(judge), unread=scores.count(None))


def _traces(work: Evaluation, journal: Journal, questions: Sequence[int]) -> tuple[list[tuple[int, int]], list[ReasoningTrace]]:
    """(question, position of the condition) and trace of everything to be judged: what was answered clean and elsewhere."""
    places, traces = [], []
    for question in questions:
        cases = [(question, condition.name) for condition in work.conditions]
        entries = {entry["condition"]: entry for entry in journal.entries(cases)}
        clean = entries.get(work.conditions[0].name)
        if clean is None:
            continue
        sample, reference = work.samples[question], clean["answers"][0]["text"]
        for position, condition in enumerate(work.conditions):
            if condition.name in entries:
                text = entries[condition.name]["answers"][0]["text"]
                places.append((question, position))
                traces.append(ReasoningTrace(sample_id=sample.id, problem=sample.problem, options=sample.options, text=text,
                                             reference=reference if position else None))
    return places, traces


def _figures(work: Evaluation, places: Sequence[tuple[int, int]],
             scores: Sequence[RubricScores | None]) -> tuple[RubricScore, ...]:
    """Mean scores, clean and over corrupted conditions, each of which counts the same, with intervals over videos."""
    rows = {question: row for row, question in enumerate(dict.fromkeys(question for question, _ in places))}
    values = np.full((len(RUBRICS), len(rows), len(work.conditions)), np.nan)
    for (question, position), found in zip(places, scores, strict=True):
        if found is not None:
            values[:, rows[question], position] = [getattr(found, rubric.name) for rubric in RUBRICS]
    clusters = np.array([work.samples[question].media for question in rows])
    return tuple(RubricScore(name=rubric.name, higher_is_better=rubric.higher_is_better,
                             **dict(zip(("clean", "corrupted"), _means(table, clusters), strict=True)))
                 for rubric, table in zip(RUBRICS, values, strict=True))


def _means(table: np.ndarray, clusters: np.ndarray) -> list[Estimate]:
    """Of one rubric's scores, shape (Q, C), NaN where there is none: clean, and over the other conditions."""
    sums, known = ClusterSums(clusters), np.isfinite(table)
    figures, counted = Bootstrap(), []
    for columns in (slice(0, 1), slice(1, None)):
        present = known[:, columns].any(0)
        weights = present / max(present.sum(), 1)
        here = known[:, columns]
        figures.add(sums(table[:, columns], here), sums(here.astype(float), here), weights)
        counted.append(int(here.any(1).sum()))
    draws = figures.draw(RESAMPLES, seed=0)
    bounds: Mapping[str, Any] = dict(zip(("low", "high"), draws.interval(), strict=True))
    return [Estimate.of(draws.values[i], bounds["low"][i], bounds["high"][i], counted[i], (0.0, 5.0)) for i in range(2)]
