"""Card and page of an evaluation, from its answers: when they are all in, and again without the model; and of several."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
from rich.console import Console

from squall.jobs.console import say
from squall.jobs.evaluate_card import build_card, compare_cards
from squall.jobs.evaluate_differences import differing_answers
from squall.jobs.evaluate_examples import worst_cases
from squall.platform.config import validate
from squall.platform.errors import ConfigError, DataError
from squall.platform.report.evaluation import bounds, percent, points, write_evaluation_report
from squall.platform.report.export import export
from squall.platform.report_card import (
    CARD_FILE,
    FACTS,
    ComparisonCard,
    Estimate,
    ReportCard,
    read_answers,
    read_card,
)
from squall.platform.runs import RunDirectory, from_here
from squall.platform.video import FrameSampling


def write_card(folder: RunDirectory, facts: Mapping[str, Any]) -> ReportCard:
    """Compute the card from the answers, and write it with its page and its figures for other programs."""
    answers = read_answers(folder.path)
    card = build_card(answers, facts)
    folder.write_json(CARD_FILE, card.model_dump(mode="json"))
    sampling = validate(FrameSampling, card.asked["frames"], where=f"{folder.path / CARD_FILE}, asked.frames")
    examples = worst_cases(answers, Path(card.data["media_root"]), sampling, str(card.model["label"]))
    command = shlex.join(["squall", "report", str(from_here(folder.path))])
    write_evaluation_report(folder.report, [card], (), examples, command=command)
    export([card], folder.path / "figures")
    return card


def remake(folder: RunDirectory) -> ReportCard:
    """Compute card and page again from the answers, without the model.

    Raises:
        DataError: not all questions were asked yet.
    """
    card = read_card(folder.path)
    return write_card(folder, {name: getattr(card, name) for name in FACTS})


def compare(folders: Sequence[RunDirectory], page: Path) -> list[ComparisonCard]:
    """Write one page that shows several evaluations side by side, each pair of them compared question by question.

    Raises:
        DataError: one of them has no card, or two have no question in common.
    """
    cards = [read_card(folder.path) for folder in folders]
    tables = [read_answers(folder.path) for folder in folders]
    pairs = list(combinations(zip(cards, tables, strict=True), 2))
    comparisons = [compare_cards(first, second) for first, second in pairs]
    write_differences(page.with_name(f"{page.stem}-differences.csv"), pairs)
    command = shlex.join(["squall", "report", *(str(from_here(folder.path)) for folder in folders), f"output={page}"])
    write_evaluation_report(page, cards, comparisons, (), command=command)
    return comparisons


def write_differences(path: Path, pairs: Sequence[tuple[tuple[ReportCard, pa.Table], tuple[ReportCard, pa.Table]]]) -> None:
    """List the answers that differ between runs of one model, with how near it was to saying the same; no file without such."""
    rows = [{"first": first.name, "second": second.name} | asdict(one)
            for (first, answers), (second, others) in pairs if first.model == second.model
            for one in differing_answers(answers, others)]
    if rows:
        csv.write_csv(pa.Table.from_pylist(rows), path)


def is_evaluation(folder: RunDirectory) -> bool:
    """Whether a run directory is an evaluation's."""
    return (folder.path / "answers.jsonl").is_file()


def say_card(card: ReportCard, console: Console) -> None:
    """The main figures on the terminal."""
    summary = card.summary
    say(console, f"clean {shown(summary.clean)}, corrupted {shown(summary.mpc)} (mean over kinds), "
                 f"worst {summary.worst_kind or 'kind'} {shown(summary.worst)}; drop {shown(summary.pvr_drop)}")
    for reason in card.unreliable:
        say(console, f"unreliable: {reason}")


def say_comparison(card: ComparisonCard, console: Console) -> None:
    """What two evaluations differ by."""
    main = [f"{one.name} {points(one.change)} points {bounds(one.change)}" for one in card.contrasts
            if one.name in ("clean", "mpc")]
    say(console, f"{card.second} against {card.first}: {', '.join(main)}; {card.n:,} questions")
    for reason in card.unreliable:
        say(console, f"unreliable: {reason}")


def shown(estimate: Estimate) -> str:
    """``63.5 % [60.1, 67.0]``."""
    return "unknown" if estimate.value is None else f"{percent(estimate)} % {bounds(estimate)}"


def page_for(output: Path | None, folders: Sequence[RunDirectory]) -> Path:
    """Where a page over several runs goes. Raises ConfigError for a name that does not end in .html."""
    page = output or Path(os.path.commonpath([folder.path for folder in folders])) / "comparison.html"
    if page.suffix != ".html":
        raise ConfigError(f"output = {page}: the page is HTML; give it a name that ends in .html")
    return page


def check_kinds(folders: Sequence[RunDirectory]) -> None:
    """Refuse to put runs of different jobs on one page. Raises DataError."""
    others = [folder.name for folder in folders if not is_evaluation(folder)]
    if len(folders) > 1 and others:
        raise DataError(f"{', '.join(others)}: no evaluation, and what stands side by side is evaluations alone, or attacks on "
                        "clips alone; give runs of `squall evaluate`, or of `squall attack video`, or one run",
                        reason="different_jobs")
