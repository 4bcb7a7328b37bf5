"""`squall evaluate CONFIG`: a model's answers to every question, clean and corrupted, and a report card.

Every question is asked in every condition on the path that training uses. Each answer is noted as it comes in, so that an
interrupted run goes on with the next question; the card is computed from the answers alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console

from squall.actors.cluster import ResourcePlan, start_ray, stop_ray
from squall.actors.groups import SampledOutcome
from squall.actors.logs import messages_of_ray
from squall.actors.sampling import GroupSampler
from squall.algorithms.confidence import answer_probability
from squall.jobs.console import counted, phase, say
from squall.jobs.evaluate_output import Confidence, Journal, write_answers
from squall.jobs.evaluate_plan import Condition, EvaluateConfig, Evaluation, prepare
from squall.jobs.resume import resume_command
from squall.jobs.session import rollout_demands
from squall.platform.config import dump_yaml
from squall.platform.errors import FULL_DISK, ConfigError, SquallError
from squall.platform.models import load_processor
from squall.platform.report_card import ANSWERS_FILE, Loss
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
        try:
            lost = ask_all(work, folder, journal, console)
        except KeyboardInterrupt:
            folder.event("interrupted", answered=len(journal.done))
            say(console, f"stopped: {len(journal.done):,} of {counted(work.case_count, 'answer')} are in; go on with: "
                         f"{resume_command(JOB, folder)}")
            raise
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise SquallError(f"no room on the disk for {error.filename or folder.path} ({error.strerror}); what was answered "
                              f"before is good. Make room, then go on with: {resume_command(JOB, folder)}") from error
        return finish(work, folder, journal, lost, time.monotonic() - started, console)
    finally:
        lock.close()


def begin(folder: RunDirectory, work: Evaluation) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: answers that are there came about in another way.
    """
    now: dict[str, Any] = {"asked": work.asked, "data": work.data["hash"], "model": work.model}
    stored = read_json(folder.path / "settings.json") if work.config.resume else {}
    for section, values in stored.items():
        if values != now[section]:
            keys = [key for key in values if values[key] != now[section].get(key)] if isinstance(values, Mapping) else [section]
            first = f"{section}.{keys[0]}" if isinstance(values, Mapping) else "the questions or their media"
            raise ConfigError(f"{folder.path}: was begun with other settings ({first} differ{'s' if '.' in first else ''}); "
                              "answers of both would not be comparable. Resume it as it was, or give another name")
    folder.write_json("settings.json", now)
    kept = {"name": folder.name, "output": folder.path.parent, "resume": False}
    folder.write_config(f"job: {JOB}\n" + dump_yaml(work.config.model_copy(update=kept)))
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
                 f"{work.model['label']}{there}")
    if work.rejected:
        say(console, f"{counted(len(work.rejected), 'record')} of the manifest cannot be used, named in the report; the first: "
                     f"{work.rejected[0].message}")
    say(console, f"{folder.path}")


def ask_all(work: Evaluation, folder: RunDirectory, journal: Journal, console: Console) -> list[Loss]:
    """Ask what is not in the journal yet; returns what could not be answered.

    Raises:
        SquallError: the actors cannot start, or one is stuck or gone for good.
    """
    lost: list[Loss] = []
    todo = work.case_count - len(journal.done)
    if not todo:
        return lost
    cases = (case for case in work.cases() if (case[0], case[1].name) not in journal.done)
    ahead = READY * work.config.workers.max_groups_in_flight
    running: dict[int, tuple[int, Condition]] = {}
    number = -1
    with sampling(work, folder, console) as sampler, WorkProgress("answers", todo, todo, console=console) as progress:
        while True:
            while len(running) < ahead and (case := next(cases, None)) is not None:
                number += 1
                running[number] = case
                sampler.submit(number, work.plan(*case))
            if not running:
                break
            for key, outcome in sampler.poll(5.0, may_publish=True):
                question, condition = running.pop(key)
                if outcome.scored is None:
                    lost.append(loss(work, question, condition, outcome))
                else:
                    journal.record(question, condition, outcome.scored)
                progress.advance(key, 1.0, lost=outcome.scored is None)
        for reason, count in sampler.take_retries().items():
            progress.note(f"tried again: {count:,} {reason}")
            folder.event("retried", reason=reason, count=count)
    return lost


def loss(work: Evaluation, question: int, condition: Condition, outcome: SampledOutcome) -> Loss:
    """Why a question has no answer in a condition."""
    return Loss(question=question, sample_id=work.samples[question].id, condition=condition.name,
                reason=outcome.failure.reason, message=outcome.failure.message)


@contextmanager
def sampling(work: Evaluation, folder: RunDirectory, console: Console) -> Iterator[GroupSampler]:
    """Engines and workers, from their start to their end."""
    sampler = GroupSampler(replace(work.sampler, logs=folder.logs))
    with phase(console, "starting Ray", "ray", {}):
        cluster = start_ray(work.config.ray_address)
    try:
        with messages_of_ray(lambda line: append_line(folder.logs / "ray.log", line)):
            ResourcePlan(tuple(rollout_demands(work.sampler.engine, work.config.workers))).check(cluster)
            with phase(console, f"starting {counted(work.sampler.engine.count, 'engine')} with {work.model['label']} "
                                "(tens of seconds)", "engine", {}):
                sampler.start()
            yield sampler
    finally:
        sampler.stop()
        stop_ray()


def confidence_of(work: Evaluation) -> Confidence:
    """How an answer's probability is found for this kind of model."""
    processor = load_processor(work.sampler.model_path)
    tokenizer = getattr(processor, "tokenizer", processor)

    def decode(ids: Any) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    return lambda text, ids, logprobs: answer_probability(text, ids, logprobs, decode)


def finish(work: Evaluation, folder: RunDirectory, journal: Journal, lost: list[Loss], wall_s: float,
           console: Console) -> int:
    """Write the answers, the card and the page. Returns the exit status."""
    write_answers(folder.path / ANSWERS_FILE, work, journal, confidence_of(work))
    journal.close()
    return 0
