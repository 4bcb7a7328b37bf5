"""`squall evaluate CONFIG`: a model's answers to every question, clean and corrupted, and a report card.

Every question is asked in every condition on the path that training uses. Each answer is noted as it comes in, so that an
interrupted run goes on with the next question; the card is computed from the answers alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count, islice
from typing import Any

from rich.console import Console

from squall.actors.groups import SampledOutcome
from squall.actors.judge_config import POLICY
from squall.actors.resources import Demand
from squall.actors.sampling import GroupSampler
from squall.jobs.asking import asking
from squall.jobs.console import counted, say
from squall.jobs.evaluate_output import Journal, write_answers
from squall.jobs.evaluate_plan import EvaluateConfig, Evaluation, prepare
from squall.jobs.evaluate_questions import Condition
from squall.jobs.evaluate_reasoning import judge_reasoning
from squall.jobs.evaluate_report import say_card, write_card
from squall.jobs.resume import resumable
from squall.jobs.session import judge_demand, rollout_demands
from squall.platform.config import dump_yaml
from squall.platform.errors import ConfigError
from squall.platform.report_card import ANSWERS_FILE, CARD_FILE, Loss, Reasoning
from squall.platform.runs import RunDirectory, append_line, read_json
from squall.platform.work_progress import WorkProgress

__all__ = ["EvaluateConfig", "run"]

JOB = "evaluate"
SHOWN_LOSSES = 5
"""On the terminal; the card has all."""
READY = 2
"""Plans handed to the sampler for each that it works on, so that it never waits for the next."""


def run(config: EvaluateConfig) -> int:
    """Ask what has not been answered yet, and write answers, card and report. Returns 1 where nothing is answered, else 0."""
    console, started = Console(), time.monotonic()
    work = prepare(config)
    folder = RunDirectory.create(config.output, JOB, config.name, resume=config.resume)
    lock = folder.lock()
    try:
        begin(folder, work)
        journal = Journal(folder.path / "answers.jsonl")
        announce(work, folder, len(journal.done), console)
        with resumable(JOB, folder, console, lambda: f"{len(journal.done):,} of {counted(work.case_count, 'answer')} are in"):
            lost, reasoning = ask_all(work, folder, journal, console)
        return finish(work, folder, journal, lost, reasoning, time.monotonic() - started, console)
    finally:
        lock.close()


def begin(folder: RunDirectory, work: Evaluation) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: answers that are there came about in another way.
    """
    now: dict[str, Any] = {"asked": work.asked, "data": work.data["hash"], "model": work.model.facts}
    stored = read_json(folder.path / "settings.json") if work.config.resume else {}
    for section, values in stored.items():
        if values != now[section]:
            keys = [key for key in values if values[key] != now[section].get(key)] if isinstance(values, Mapping) else [section]
            first = f"{section}.{keys[0]}" if isinstance(values, Mapping) else "the questions or their media"
            raise ConfigError(f"{folder.path}: was begun with other settings ({first} differ{'s' if '.' in first else ''}); "
                              "answers of both would not be comparable. Resume it as it was, or give another name")
    folder.write_json("settings.json", now)
    folder.write_config(f"job: {JOB}\n" + dump_yaml(work.resolved(folder.name, folder.path.parent)))
    folder.write_provenance(work.config.seed)
    folder.event("resumed" if stored else "started", job=JOB)


def announce(work: Evaluation, folder: RunDirectory, done: int, console: Console) -> None:
    """What there is to do."""
    there = f"; {done:,} answers are there" if done else ""
    conditions = len(work.conditions)
    asked = f"in {counted(conditions, 'condition')}"
    if work.case_count < conditions * len(work.samples):
        asked = f"clean and in {work.config.conditions_per_question} of {counted(conditions - 1, 'corrupted condition')}"
    say(console, f"{counted(len(work.samples), 'question')} about {counted(work.data['videos'], 'clip')}, each {asked}, by "
                 f"{work.model.label}{there}")
    if work.rejected:
        say(console, f"{counted(len(work.rejected), 'record')} of the manifest cannot be used, named in the report; the first: "
                     f"{work.rejected[0].message}")
    say(console, f"{folder.path}")


def ask_all(work: Evaluation, folder: RunDirectory, journal: Journal, console: Console) -> tuple[list[Loss], Reasoning | None]:
    """Ask what is not in the journal yet, and have reasoning judged where that is wanted.

    Returns what could not be answered, and what the judge said.

    Raises:
        SquallError: the actors cannot start, or one is stuck or gone for good.
    """
    judges = work.config.judge is not None
    if work.case_count == len(journal.done) and not judges:
        return [], None
    with sampling(work, folder, console) as sampler:
        lost = ask(work, folder, journal, sampler, console)
        ledger = folder.path / "judge.sqlite"
        return lost, judge_reasoning(work, journal, sampler, ledger, console) if judges and journal.done else None


def ask(work: Evaluation, folder: RunDirectory, journal: Journal, sampler: GroupSampler, console: Console) -> list[Loss]:
    """Ask what is not in the journal yet; returns what could not be answered."""
    lost: list[Loss] = []
    todo = work.case_count - len(journal.done)
    cases = (case for case in work.cases() if (case[0], case[1].name) not in journal.done)
    ahead = READY * work.config.workers.max_groups_in_flight
    running: dict[int, tuple[int, Condition]] = {}
    numbers = count()
    with WorkProgress("answers", todo, todo, console=console) as progress:
        while True:
            for question, condition in islice(cases, ahead - len(running)):
                number = next(numbers)
                running[number] = question, condition
                sampler.submit(number, work.plan(question, condition))
            if not running:
                break
            for key, outcome in sampler.poll(5.0, may_publish=True):
                question, condition = running.pop(key)
                if outcome.scored is None:
                    lost.append(loss(work, question, condition, outcome))
                else:
                    journal.record(question, condition, outcome.scored)
                progress.advance(key, 1.0, lost=outcome.scored is None)
        for reason, number in sampler.take_retries().items():
            progress.note(f"tried again: {number:,} {reason}")
            folder.event("retried", reason=reason, count=number)
    order = {condition.name: place for place, condition in enumerate(work.conditions)}
    return sorted(lost, key=lambda one: (one.question, order[one.condition]))


def loss(work: Evaluation, question: int, condition: Condition, outcome: SampledOutcome) -> Loss:
    """Why a question has no answer in a condition."""
    return Loss(question=question, sample_id=work.samples[question].id, condition=condition.name,
                reason=outcome.failure.reason, message=outcome.failure.message)


def demands(work: Evaluation) -> list[Demand]:
    """What engines, workers and judge reserve on the cluster."""
    judge = work.config.judge
    own_judge = judge is not None and judge.kind == "engine" and judge.model != POLICY
    return [*rollout_demands(work.sampler.engine, work.config.workers), *([judge_demand(judge)] if own_judge else [])]


def sampling(work: Evaluation, folder: RunDirectory, console: Console) -> AbstractContextManager[GroupSampler]:
    """Engines and workers, from their start to their end."""
    sampler = GroupSampler(replace(work.sampler, logs=folder.logs), work.model.engine_class)
    return asking(sampler, demands(work), work.model.label, work.config.ray_address,
                  lambda line: append_line(folder.logs / "ray.log", line), console)


def finish(work: Evaluation, folder: RunDirectory, journal: Journal, lost: Sequence[Loss], reasoning: Reasoning | None,
           wall_s: float, console: Console) -> int:
    """Write the answers, the card and the page, and say what came of it. Returns the exit status."""
    for one in lost[:SHOWN_LOSSES]:
        say(console, f"lost: {one.message}")
    if lost:
        reasons = Counter(one.reason for one in lost)
        say(console, f"{counted(len(lost), 'answer')} lost ({', '.join(f'{n:,} {reason}' for reason, n in reasons.items())}), "
                     f"each named in {folder.path / CARD_FILE}; --resume asks for them again")
    if not journal.done:
        folder.event("stopped", error="no question was answered")
        say(console, "no question was answered, so there is no card")
        return 1
    write_answers(folder.path / ANSWERS_FILE, work, journal, work.model.reading())
    card = write_card(folder, {
        "name": folder.name, "model": work.model.facts, "data": work.data, "asked": work.asked,
        "reported": work.config.reported, "provenance": folder.lasting_provenance(), "lost": tuple(lost),
        "reasoning": reasoning})
    folder.event("finished", answers=len(journal.done), lost=len(lost))
    say(console, f"{counted(len(journal.done), 'answer')}; took {wall_s:.1f} s")
    say_card(card, console)
    say(console, f"report: {folder.report}")
    return 0
