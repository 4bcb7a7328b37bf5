"""`squall rollouts RUN`: read the answers that a run sampled, while it runs or after, and what they earned."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from pydantic import field_validator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from squall.algorithms.corruption.registry import LEARNED, find_kind, full_name
from squall.platform.answers import AnswerFilter, Answers, Figures, Order, fetch, figures, ordered, run_scoring, scan
from squall.platform.config import Config
from squall.platform.errors import ConfigError, nearest
from squall.platform.prompts import extract_answer, extract_think
from squall.platform.records import Branch
from squall.platform.runs import RunDirectory, to_json
from squall.platform.store import RolloutStore

PIPE_WIDTH = 100
SHOWN = 20
ENDINGS = (".csv", ".json", ".jsonl")
WRITTEN = ("step", "group", "group_id", "sample_id", "attempt_id", "branch", "index", "corruption_kind", "corruption_severity",
           "problem", "options", "solution", "media", "text", "finish_reason", "rewards", "advantage", "weight_version",
           "dropped")
"""Columns of files and of `format=json`; ``reward`` and ``correct`` follow."""


class RolloutsConfig(Config):
    """Which answers are shown, and how. All filters given must hold."""

    run: Path
    """Run directory."""
    heldout: bool = False
    """Read the held-out answers: those before training are step 0, those after it the last step."""
    step: tuple[int, int] | None = None
    """A step, or the [first, last] of a range, counted from 0 as in the file names."""
    branch: str | None = None
    """What the model saw: `clean`, `corrupted` or `shuffled`."""
    kind: str | None = None
    """Corruption kind of the question's corrupted clip; answers about its clean clip are of the same kind."""
    severity: tuple[float, float] | None = None
    """[low, high] of that corruption's severity."""
    reward: tuple[float, float] | None = None
    """[low, high] of the reward: the sum with the run's `rewards.weights`, or `reward_name` alone."""
    reward_name: str | None = None
    """One reward, such as `accuracy`, unweighted; filters, order and the reward column go by it in place of the sum."""
    sample: str | None = None
    """Id of a question."""
    correct: bool | None = None
    """Only right answers, or only wrong ones: accuracy above the run's `tgrpo.correct_above`."""
    dropped: bool | str | None = None
    """Only answers of groups that were not trained on (true), that were (false), or the reason, such as `zero_variance`."""
    text: str | None = None
    """Part of the answer, in upper or lower case."""
    order: Order = "step"
    """`step`, `reward_high` or `reward_low`."""
    limit: int | None = None
    """Answers at most; 0 for all. By default 20 on the terminal, all in a file or with format=json."""
    full: bool = False
    """Whole questions and answers instead of a table."""
    format: Literal["table", "json"] = "table"
    """`json` prints one object per answer and line, for other programs, and nothing else."""
    output: Path | None = None
    """File to write to, by its ending `.csv`, `.json` or `.jsonl`."""
    skip_damaged: bool = False
    """Leave out files that cannot be read, and say so, instead of stopping."""

    @field_validator("step", mode="before")
    @classmethod
    def _one_step(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("sample", "text", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("step", "severity", "reward")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the low end is above the high end")
        return value

    @field_validator("branch")
    @classmethod
    def _known_branch(cls, value: str | None) -> str | None:
        if value is not None and value not in tuple(Branch):
            raise ValueError(f"unknown branch.{nearest(value, Branch)} Branches: {', '.join(Branch)}")
        return value

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                return "+".join(_stored_name(kind) for kind in value.split("+"))
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("limit")
    @classmethod
    def _not_negative(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise ValueError("is negative; 0 stands for all")
        return value

    @field_validator("output")
    @classmethod
    def _known_ending(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in ENDINGS:
            raise ValueError(f"ends in '{value.suffix}'; the ending says what is written: {', '.join(ENDINGS)}")
        return value


def _stored_name(kind: str) -> str:
    """A kind as answers have it; attackers may be gone since, so theirs is not looked up. Raises ConfigError."""
    if not kind.startswith(LEARNED):
        find_kind(kind)
    return full_name(kind)


def run(config: RolloutsConfig) -> int:
    """Show or write the answers that match."""
    directory = RunDirectory.open(config.run)
    store = RolloutStore(directory.heldout if config.heldout else directory.rollouts)
    scoring = run_scoring(directory, config.reward_name)
    wanted = AnswerFilter(config.step, config.branch, config.kind, config.severity, config.reward, config.sample,
                          config.correct, config.dropped, config.text)
    answers = scan(store, wanted, scoring, skip_damaged=config.skip_damaged)
    for path in answers.damaged:
        print(f"left out, cannot be read: {path}", file=sys.stderr)
    to_people = config.format == "table" and config.output is None
    limit = SHOWN if config.limit is None and to_people else config.limit or None
    chosen = ordered(answers.table, config.order, limit)
    rows = full_rows(store, chosen)
    if config.output is not None:
        count = write_rows(config.output, rows, answers.rewards)
        print(f"{count:,} of {answers.total:,} answers written to {config.output}")
    elif config.format == "json":
        print_lines(rows)
    else:
        show(config, answers, list(rows))
    return 0


def full_rows(store: RolloutStore, chosen: Any) -> Iterator[dict[str, Any]]:
    """Stored columns of chosen answers with their ``reward`` and ``correct``, in order."""
    scores = zip(chosen["reward"].to_pylist(), chosen["correct"].to_pylist(), strict=True)
    for row, (reward, correct) in zip(fetch(store, chosen, WRITTEN), scores, strict=True):
        yield row | {"rewards": dict(row["rewards"]), "reward": reward, "correct": correct}


def print_lines(rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines on the standard output, until its reader has enough."""
    try:
        write_lines(sys.stdout, rows)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its exit


def write_rows(path: Path, rows: Iterable[dict[str, Any]], rewards: Sequence[str]) -> int:
    """Write rows by the ending of `path`; returns how many. In CSV each of `rewards` has a column ``reward/NAME``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return write_csv(file, rows, rewards)
        return {".json": write_list, ".jsonl": write_lines}[path.suffix](file, rows)


def write_lines(file: TextIO, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON object on each line."""
    count = 0
    for row in rows:
        file.write(to_json(row) + "\n")
        count += 1
    return count


def write_list(file: TextIO, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON list."""
    count = 0
    for row in rows:
        file.write(("[\n" if count == 0 else ",\n") + to_json(row))
        count += 1
    file.write("\n]\n" if count else "[]\n")
    return count


def write_csv(file: TextIO, rows: Iterable[dict[str, Any]], rewards: Sequence[str]) -> int:
    """A header and a line per row; empty where an answer has no such reward."""
    writer, count = None, 0
    for row in rows:
        found = row.pop("rewards")
        flat = row | {"options": json.dumps(row["options"], ensure_ascii=False)}
        flat |= {f"reward/{name}": found.get(name) for name in rewards}
        if writer is None:
            writer = csv.DictWriter(file, list(flat))
            writer.writeheader()
        writer.writerow(flat)
        count += 1
    return count


def show(config: RolloutsConfig, answers: Answers, rows: Sequence[dict[str, Any]]) -> None:
    """Print the chosen answers and the figures of all that match."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    reward = config.reward_name or "reward"
    if config.full:
        for row in rows:
            console.print(whole_answer(row), soft_wrap=True)
    elif rows:
        console.print(answer_table(rows, reward))
    console.print(summary(answers, len(rows), reward), soft_wrap=True)
    if len(answers.table):
        console.print(figure_table(answers, reward))


def answer_table(rows: Sequence[dict[str, Any]], reward: str) -> Table:
    """A line per answer, cut to the width of the terminal."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    dropped = any(row["dropped"] for row in rows)
    for name in ("step", "sample", "saw", "corruption"):
        table.add_column(name, justify="right" if name == "step" else "left", no_wrap=True, max_width=20)
    table.add_column("answer", no_wrap=True, ratio=1, overflow="ellipsis")
    table.add_column("truth", no_wrap=True, max_width=12, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    for name in (reward, "adv."):
        table.add_column(name, justify="right", no_wrap=True)
    if dropped:
        table.add_column("dropped", no_wrap=True)
    for row in rows:
        cells = [str(row["step"]), _plain(row["sample_id"]), row["branch"], _corruption(row), _cut(row["text"]),
                 _plain(row["solution"]), _mark(row["correct"]), _number(row["reward"]), _number(row["advantage"])]
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in
                        [*cells, *([row["dropped"] or ""] if dropped else [])]))
    return table


def whole_answer(row: dict[str, Any]) -> Text:
    """One answer with its question and every reward, in full."""
    head = f"step {row['step']}  {_plain(row['sample_id'])}  {row['branch']}  {_corruption(row)}".rstrip()
    rewards = "  ".join(f"{name} {value:.3g}" for name, value in row["rewards"].items())
    fate = f"dropped: {row['dropped']}" if row["dropped"] else f"advantage {_number(row['advantage'])}"
    question = " / ".join([row["problem"], *row["options"]])
    return Text.assemble((head, "bold"), "\n", _mark(row["correct"]), f" {rewards}  total {_number(row['reward'])}  {fate}\n",
                         ("asked   ", "dim"), _plain(question), "\n", ("truth   ", "dim"), _plain(row["solution"]), "\n",
                         ("answer  ", "dim"), _plain(row["text"], keep_lines=True), "\n")


def summary(answers: Answers, shown: int, reward_name: str) -> str:
    """How many match, of how many, how many are shown, and the means of those that match."""
    line = f"{len(answers.table):,} of {answers.total:,} answers match"
    if shown < len(answers.table):
        line += f", {shown:,} shown (limit=0 shows all)"
    reward, accuracy = (answers.table[name].drop_null() for name in ("reward", "accuracy"))
    means = [f"mean {reward_name} {np.mean(reward):.3f}"] if len(reward) else []
    means += [f"accuracy {np.mean(accuracy):.1%}"] if len(accuracy) else []
    return f"{line}; {', '.join(means)}." if means else f"{line}."


def figure_table(answers: Answers, reward: str) -> Table:
    """Mean reward and accuracy of all answers that match, by branch and by corruption kind."""
    corrupted = figures(answers.table, "kind", Branch.CORRUPTED)
    by_kind = ("corrupted clips, by kind", corrupted) if corrupted else ("by kind", figures(answers.table, "kind"))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("what matches", "answers", f"mean {reward}", "accuracy"):
        table.add_column(name, justify="left" if name == "what matches" else "right", no_wrap=True)
    for title, lines in (("by branch", figures(answers.table, "branch")), by_kind):
        if lines:
            table.add_row(Text(title, "dim"))
        for line in lines:
            table.add_row(*_figure_cells(line))
        table.add_section()
    return table


def _figure_cells(line: Figures) -> tuple[Text, str, str, str]:
    accuracy = "–" if line.accuracy is None else f"{line.accuracy:.1%}"
    return Text(f"  {line.label}"), f"{line.count:,}", _number(line.reward), accuracy


def _corruption(row: dict[str, Any]) -> str:
    kind = row["corruption_kind"]
    return "" if kind is None else f"{kind} {row['corruption_severity']:.2f}"


def _mark(correct: bool | None) -> Text:
    return Text("?", "dim") if correct is None else Text("✓", "green") if correct else Text("✗", "red")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cut(text: str) -> Text:
    """The answer tag's content first and the reasoning after it; the whole text where there is no answer."""
    answer = extract_answer(text)
    if answer is None:
        return Text(_plain(text))
    return Text.assemble(_plain(answer), ("  " + _plain(extract_think(text) or ""), "dim"))


def _plain(text: str, keep_lines: bool = False) -> str:
    """A text without control characters, which could move the terminal's cursor; line breaks become spaces."""
    lines = ["".join(c if c.isprintable() else "\ufffd" if not c.isspace() else " " for c in line)
             for line in text.splitlines()]
    return "\n".join(lines) if keep_lines else " ".join(" ".join(lines).split())
