"""An attack's card as other programs and papers take it: CSV, Parquet and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from squall.platform.attack_card import CLEAN, AttackCard, ModelResult, transfer_name
from squall.platform.report.attack_subjects import WORST, main_threat, subjects, threat_text
from squall.platform.report.attack_tables import ladder
from squall.platform.report.attacks import ROLE_NAMES
from squall.platform.report.export import cell, escape, markdown_table
from squall.platform.report_card import Estimate
from squall.platform.runs import write_text

FIGURES = pa.schema([
    ("run", pa.string()), ("model", pa.string()), ("arm", pa.string()), ("seed", pa.int64()), ("data_hash", pa.string()),
    ("attack", pa.string()), ("norm", pa.string()), ("epsilon", pa.float64()),
    ("accuracy", pa.float64()), ("accuracy_low", pa.float64()), ("accuracy_high", pa.float64()), ("accuracy_n", pa.int64()),
    ("attacked", pa.int64()), ("queries_mean", pa.float64()), ("queries_median", pa.float64()),
    ("gradients_mean", pa.float64())])
"""Columns of figures.csv and figures.parquet: a row for each model clean, under each attack and each transfer at each budget,
and for the worst case at each budget ("worst"); fractions in [0, 1], 95 % intervals."""


def export_attacks(card: AttackCard, folder: Path) -> tuple[Path, ...]:
    """Write ``figures.csv``, ``figures.parquet`` and ``card.md`` into the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = attack_figures(card)
    paths = folder / "figures.csv", folder / "figures.parquet", folder / "card.md"
    csv.write_csv(table, paths[0])
    pq.write_table(table, paths[1])
    write_text(paths[2], attacks_to_markdown(card))
    return paths


def attack_figures(card: AttackCard) -> pa.Table:
    """Every accuracy of every model."""
    return pa.Table.from_pylist([row for model in card.models for row in _figures(card, model)], schema=FIGURES)


def _figures(card: AttackCard, model: ModelResult) -> list[dict[str, Any]]:
    same = {"run": card.name, "model": model.name, "arm": model.arm, "seed": model.seed, "data_hash": card.data.get("hash")}
    costs = ("attacked", "queries_mean", "queries_median", "gradients_mean")
    rows = [_row(CLEAN, None, None, model.clean)]
    rows += [_row(one.attack, one.norm, one.epsilon, one.robust_accuracy) | {name: getattr(one, name) for name in costs}
             for one in model.results]
    known = {row["attack"] for row in rows}
    rows += [_row(name, one.norm, one.epsilon, one.accuracy) for one in card.transfers if one.target == model.name
             and one.source != model.name and (name := transfer_name(one.source, one.attack)) not in known]
    rows += [_row(WORST, one.norm, one.epsilon, one.robust_accuracy) for one in model.budgets]
    return [same | row for row in rows]


def _row(attack: str, norm: str | None, epsilon: float | None, value: Estimate) -> dict[str, Any]:
    return {"attack": attack, "norm": norm, "epsilon": epsilon, "accuracy": value.value, "accuracy_low": value.low,
            "accuracy_high": value.high, "accuracy_n": value.n}


def attacks_to_markdown(card: AttackCard) -> str:
    """The main budget as a table for a paper or a README, with what should be known of it below; percent, 95 % intervals."""
    main = main_threat(card)
    rungs = ladder(card, subjects(card), main)
    roles = [role for role in ROLE_NAMES if any(rung.mark(role) for rung in rungs)]
    head = ["arm" if card.arms else "model", "clean", *(ROLE_NAMES[role] for role in roles), f"worst case, {threat_text(main)}"]
    rows = [[rung.subject.name, cell(rung.subject.clean), *(cell(rung.mark(role)) for role in roles), cell(rung.worst)]
            for rung in rungs]
    return "\n\n".join([markdown_table(head, rows), *_remarks(card)]) + "\n"


def _remarks(card: AttackCard) -> list[str]:
    facts = [f"{card.data['images']} images" if "images" in card.data else "",
             f"data {card.data['hash']}" if "hash" in card.data else "",
             f"Squall {card.provenance['squall']}" if "squall" in card.provenance else "", "95 % intervals"]
    warned = [("this card", card.unreliable), *((model.name, model.unreliable) for model in card.models)]
    return [f"{', '.join(map(escape, filter(None, facts)))}.",
            *(f"**Do not rely on the figures of {escape(name)}:** {escape(' '.join(reasons))}"
              for name, reasons in warned if reasons)]
