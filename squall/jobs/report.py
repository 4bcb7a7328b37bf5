"""`squall report RUN [RUN ...]`: write report.html again from what the run directory holds, and nothing else.

A finished run gets its held-out figures and examples; one that runs, or died, gets what there is so far. Several evaluations,
or several runs of attacks on the same clips, get one page that compares them.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from rich.console import Console

from squall.jobs import heldout
from squall.jobs.attack_report import is_attack, remake_attack, say_attack_card
from squall.jobs.console import say
from squall.jobs.evaluate_report import check_kinds, compare, is_evaluation, page_for, remake, say_card, say_comparison
from squall.jobs.examples import held_out_examples, training_examples
from squall.jobs.registry import JOBS
from squall.jobs.tats_card import say_tats_card
from squall.jobs.tats_report import is_tats, remake_tats
from squall.jobs.trial_card import say_arms
from squall.jobs.video_attack_card import say_video_attack_card
from squall.jobs.video_attack_report import compare_video_attacks, is_video_attack, remake_video_attack
from squall.platform.answers import AnswerFilter, run_scoring, scan
from squall.platform.config import Config, read_yaml, validate
from squall.platform.errors import DataError
from squall.platform.report import ExampleClip, write_report
from squall.platform.report.status import run_status
from squall.platform.runs import RunDirectory, read_json, read_lines
from squall.platform.store import RolloutStore
from squall.platform.tracking import read_metrics
from squall.platform.video import FrameSampling


class ReportConfig(Config):
    """Which runs to report on."""

    runs: tuple[Path, ...] = Field(min_length=1)
    """Run directories: any one, or several evaluations or several attacks on the same clips, which then stand side by side."""
    output: Path | None = None
    """Page over several runs; by default comparison.html in the folder that holds them."""


def run(config: ReportConfig) -> int:
    """Write the page and say where it is and what state the run is in."""
    console = Console(highlight=False)
    folders = [RunDirectory.open(path) for path in config.runs]
    if len(folders) > 1 and all(map(is_video_attack, folders)):
        page = page_for(config.output, folders)
        compare_video_attacks(folders, page)
        say(console, f"report: {page}")
        return 0
    check_kinds(folders)
    if len(folders) > 1:
        page = page_for(config.output, folders)
        for comparison in compare(folders, page):
            say_comparison(comparison, console)
        say(console, f"report: {page}")
        return 0
    (directory,) = folders
    if is_evaluation(directory):
        say_card(remake(directory), console)
        say(console, f"report: {directory.report}")
        return 0
    if is_attack(directory):
        card = remake_attack(directory)
        (say_arms if card.arms else say_attack_card)(card, console)
        say(console, f"report: {directory.report}")
        return 0
    if is_video_attack(directory):
        say_video_attack_card(remake_video_attack(directory), console)
        say(console, f"report: {directory.report}")
        return 0
    if is_tats(directory):
        say_tats_card(remake_tats(directory), console)
        say(console, f"report: {directory.report}")
        return 0
    page = build_report(directory)
    say(console, f"{directory.name}: {run_status(directory).sentence}")
    say(console, f"report: {page}")
    return 0


def build_report(directory: RunDirectory) -> Path:
    """Write report.html from the files of a run directory; returns its path.

    Files of rollouts that are damaged and media that are gone are left out, and the page says so.

    Raises:
        SquallError: the directory holds no run, or its configuration or results are not what a job writes.
    """
    if not directory.config.exists():
        raise DataError(f"{directory.path}: no config.yaml, so this is not a run directory; `squall report` takes one such as "
                        "runs/NAME", reason="no_run")
    config, status = read_yaml(directory.config), run_status(directory)
    started = next((event for event in reversed(read_lines(directory.events)) if event["kind"] == "started"), {})
    notes = list(started.get("notes", []))
    job = next((job for job in JOBS if job.name == started.get("job")), None)
    store, answers, best, worst, examples, problems = RolloutStore(directory.rollouts), None, [], [], [], []
    held_out = status.finished and RolloutStore(directory.heldout).steps()
    if store.steps() or held_out:
        sampling = validate(FrameSampling, (config.get("data") or {}).get("frames") or {}, f"{directory.config}, data.frames")
    if store.steps():
        scoring = run_scoring(directory)
        found = scan(store, AnswerFilter(), scoring, skip_damaged=True)
        notes += [f"{path.relative_to(directory.path)} is damaged and left out." for path in found.damaged]
        answers = found.table
        best, worst = training_examples(store, answers, scoring, sampling)
    if held_out:
        examples, problems = _held_out(directory, sampling)
    return write_report(
        directory, title=f"{job.title}: {directory.name}" if job else directory.name, status=status,
        results=read_json(directory.results) if status.finished else {},
        metrics=read_metrics(directory.metrics), settings=config, answers=answers,
        examples=examples, best=best, worst=worst, notes=notes + problems)


def _held_out(directory: RunDirectory, sampling: FrameSampling) -> tuple[list[ExampleClip], list[str]]:
    """Held-out examples, and what kept them from being shown."""
    steps = RolloutStore(directory.heldout).steps()
    if len(steps) < 2:
        return [], []
    try:
        before, after = (heldout.load(directory.heldout, step) for step in (steps[0], steps[-1]))
    except DataError as error:
        return [], [f"Held-out answers are not shown: {error}."]
    return held_out_examples(before, after, sampling), []
