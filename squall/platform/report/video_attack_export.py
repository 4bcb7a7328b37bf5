"""The card of attacks on clips as other programs and papers take it: CSV, Parquet and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from squall.platform.report.evaluation import p_text
from squall.platform.report.export import escape, markdown_table
from squall.platform.runs import write_text
from squall.platform.video_attack_card import Figure, VideoAttackCard

MEASURED = ("success", "queries", "removal_queries", "l2", "linf", "mean_abs", "ssim", "flicker", "cells", "frames")


def _columns(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


FIGURES = pa.schema([
    ("run", pa.string()), ("victim", pa.string()), ("data_hash", pa.string()), ("attack", pa.string()), ("kind", pa.string()),
    ("seeds", pa.int64()), ("attacked", pa.int64()), ("queries_median", pa.float64()), ("training_queries", pa.int64()),
    ("amortised_queries", pa.float64()), *_columns(MEASURED)])
"""Columns of figures.csv and figures.parquet: a row for each attack; success in [0, 1], 95 % intervals."""
CONTRASTS = pa.schema([
    ("run", pa.string()), ("first", pa.string()), ("second", pa.string()), *_columns(("success", "queries")),
    ("p_success", pa.float64()), ("p_queries", pa.float64()), ("break_even_clips", pa.int64())])
"""Columns of contrasts.csv: the first attack minus the second; p-values after Holm's correction."""
CURVES = pa.schema([("run", pa.string()), ("attack", pa.string()), ("queries", pa.int64()), *_columns(("success",))])
"""Columns of curves.csv: the share that was fooled by then, which holds until the attack's next row."""


def export_video_attacks(card: VideoAttackCard, folder: Path) -> tuple[Path, ...]:
    """Write ``figures.csv``, ``figures.parquet``, ``contrasts.csv``, ``curves.csv`` and ``card.md``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = video_attack_figures(card)
    pq.write_table(figures, parquet := folder / "figures.parquet")
    paths = [parquet]
    for name, table in (("figures", figures), ("contrasts", _contrasts(card)), ("curves", _curves(card))):
        csv.write_csv(table, path := folder / f"{name}.csv")
        paths.append(path)
    write_text(text := folder / "card.md", video_attacks_to_markdown(card))
    return *paths, text


def video_attack_figures(card: VideoAttackCard) -> pa.Table:
    """Every figure of every attack."""
    same = {"run": card.name, "victim": card.victim.get("name"), "data_hash": card.data.get("hash")}
    rows = [same | {"attack": one.attack, "kind": one.kind, "seeds": len(one.seeds), "attacked": one.attacked,
                    "queries_median": one.queries_median, "training_queries": one.training_queries,
                    "amortised_queries": one.amortised_queries} | _spread(one, MEASURED) for one in card.results]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def video_attacks_to_markdown(card: VideoAttackCard) -> str:
    """Attacks and comparisons as tables for a paper or a README, with what should be known of them below."""
    head = ["attack", "fooled, %", "queries a clip", "median", "training queries", "with training, a clip", "L2", "SSIM",
            "cells", "frames"]
    rows = [[one.attack, figure_text(one.success, 100), figure_text(one.queries), number_text(one.queries_median),
             f"{one.training_queries:,}", number_text(one.amortised_queries), number_text(one.l2.mean, digits=2),
             number_text(one.ssim.mean, digits=3), number_text(one.cells.mean), number_text(one.frames.mean)]
            for one in card.results]
    against = [[f"{one.first} − {one.second}", figure_text(one.success, 100), p_text(one.p_success), figure_text(one.queries),
                p_text(one.p_queries), "never" if one.break_even_clips is None else f"{one.break_even_clips:,}"]
               for one in card.contrasts]
    tables = [markdown_table(head, rows)]
    if against:
        tables.append(markdown_table(["difference", "points", "p", "queries a clip", "p", "clips to pay for training"],
                                     against))
    return "\n\n".join([*tables, *_remarks(card)]) + "\n"


def figure_text(figure: Figure, scale: float = 1.0, digits: int = 1) -> str:
    """``41.2 [36.0, 46.9]``; a dash where it is not defined."""
    if figure.low is None or figure.high is None:
        return number_text(figure.mean, scale, digits)
    return (f"{number_text(figure.mean, scale, digits)} [{number_text(figure.low, scale, digits)}, "
            f"{number_text(figure.high, scale, digits)}]")


def number_text(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    """``1,234.5``; a dash where it is not defined."""
    return "–" if value is None else f"{scale * value:,.{digits}f}".replace("-", "−")


def _spread(holder: Any, names: Sequence[str]) -> dict[str, float | None]:
    return {f"{name}{end}": getattr(getattr(holder, name), part) for name in names
            for end, part in (("", "mean"), ("_low", "low"), ("_high", "high"))}


def _contrasts(card: VideoAttackCard) -> pa.Table:
    rows = [{"run": card.name, "first": one.first, "second": one.second, "p_success": one.p_success, "p_queries": one.p_queries,
             "break_even_clips": one.break_even_clips} | _spread(one, ("success", "queries")) for one in card.contrasts]
    return pa.Table.from_pylist(rows, schema=CONTRASTS)


def _curves(card: VideoAttackCard) -> pa.Table:
    rows = [{"run": card.name, "attack": one.attack, "queries": queries, "success": share, "success_low": low,
             "success_high": high} for one in card.results for queries, share, low, high in one.curve]
    return pa.Table.from_pylist(rows, schema=CURVES)


def _remarks(card: VideoAttackCard) -> list[str]:
    attacked = max((one.attacked for one in card.results), default=0)
    facts = [f"{attacked} clips attacked", f"victim {card.victim['name']}" if "name" in card.victim else "",
             f"data {card.data['hash']}" if "hash" in card.data else "",
             f"Squall {card.provenance['squall']}" if "squall" in card.provenance else "", "failures count the whole budget",
             "95 % bootstrap intervals over clips"]
    remarks = [f"{', '.join(map(escape, filter(None, facts)))}.", *(f"- {escape(note)}" for note in card.notes)]
    return remarks + [f"**Do not rely on these figures:** {escape(' '.join(card.unreliable))}"] * bool(card.unreliable)
