"""A report card as other programs and papers take it: CSV, Parquet and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from squall.platform.report.evaluation import bounds, labels, percent
from squall.platform.report.evaluation_charts import plain
from squall.platform.report.evaluation_tables import figures
from squall.platform.report_card import ConditionResult, Estimate, ReportCard
from squall.platform.runs import write_text

ESTIMATES = ("accuracy", "change", "flip_rate", "consistency")
FIGURES = pa.schema([
    ("run", pa.string()), ("model", pa.string()), ("data_hash", pa.string()), ("condition", pa.string()), ("kind", pa.string()),
    ("family", pa.string()), ("severity", pa.float64()),
    *((f"{name}{end}", kind) for name in ESTIMATES
      for end, kind in (("", pa.float64()), ("_low", pa.float64()), ("_high", pa.float64()), ("_n", pa.int64()))),
    ("p_value", pa.float64()), ("p_holm", pa.float64())])
"""Columns of figures.csv and figures.parquet: a row per card and condition, fractions in [0, 1], 95 % intervals."""


def export(cards: Sequence[ReportCard], folder: Path) -> tuple[Path, ...]:
    """Write ``figures.csv``, ``figures.parquet`` and ``card.md`` into the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = condition_figures(cards)
    paths = folder / "figures.csv", folder / "figures.parquet", folder / "card.md"
    csv.write_csv(table, paths[0])
    pq.write_table(table, paths[1])
    write_text(paths[2], to_markdown(cards))
    return paths


def condition_figures(cards: Sequence[ReportCard]) -> pa.Table:
    """The figures of every condition of every card."""
    rows = [{"run": card.name, "model": label, "data_hash": card.data.get("hash")} | _figures(result)
            for label, card in zip(labels(cards), cards, strict=True) for result in card.conditions]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def _figures(result: ConditionResult) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(result, name) for name in ("condition", "kind", "family", "severity", "p_value",
                                                                       "p_holm")}
    for name in ESTIMATES:
        estimate: Estimate = getattr(result, name)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high, f"{name}_n": estimate.n}
    return row


def to_markdown(cards: Sequence[ReportCard]) -> str:
    """Tables for a paper or a README: the main figures, then accuracy by kind; in percent with 95 % intervals."""
    names = labels(cards)
    reported = any(value is not None for figure in figures(cards) for value in figure.reported)
    head = ["", *names, *((f"{name}, reported" for name in names) if reported else ())]
    rows = [[figure.name, *map(cell, figure.measured),
             *(("" if value is None else percent(value) for value in figure.reported) if reported else ())]
            for figure in figures(cards)]
    kinds = dict.fromkeys(group.name for card in cards for group in card.by_kind)
    accuracy = [{group.name: group.corrupted for group in card.by_kind} for card in cards]
    by_kind = [[plain(kind), *(cell(own.get(kind)) for own in accuracy)] for kind in kinds]
    parts = [markdown_table(head, rows)] + ([markdown_table(["Accuracy under", *names], by_kind)] if by_kind else [])
    return "\n\n".join([*parts, *_remarks(cards, names)]) + "\n"


def _remarks(cards: Sequence[ReportCard], names: Sequence[str]) -> list[str]:
    remarks = []
    for name, card in zip(names, cards, strict=True):
        facts = [f"{card.data['questions']} questions" if "questions" in card.data else "",
                 f"data {card.data['hash']}" if "hash" in card.data else "",
                 f"Squall {card.provenance['squall']}" if "squall" in card.provenance else ""]
        remarks.append(f"{escape(name)}: {', '.join(filter(None, [*facts, '95 % bootstrap intervals over videos']))}.")
        if card.unreliable:
            remarks.append(f"**Do not rely on the figures of {escape(name)}:** {escape(' '.join(card.unreliable))}")
    return remarks


def cell(value: Estimate | None) -> str:
    """In percent, with its interval."""
    return f"{percent(value)} {bounds(value)}".strip()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)


def escape(text: str) -> str:
    """Text that ends no cell and starts no markup."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
