"""The card of masked video trainings as other programs and papers take it: CSV, Parquet and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from squall.platform.report.export import escape, markdown_table
from squall.platform.report.tats_tables import parts_of
from squall.platform.report.video_attack_export import number_text
from squall.platform.runs import write_text
from squall.platform.tats_card import TatsCard, TatsResult
from squall.platform.video_attack_card import Figure

LEVELS = ("sampled_motion", "visible_motion", "chance", "blind", "times_chance", "gain", "looks", "loss_own", "loss_random",
          "loss_moving", "loss_still")
COSTS = ("seconds", "tokens_per_second", "peak_memory_bytes", "entropy_share", "overlap", "collapsed_steps")


def _columns(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


FIGURES = pa.schema([
    ("run", pa.string()), ("data_hash", pa.string()), ("arm", pa.string()), ("kind", pa.string()), ("chooses", pa.string()),
    ("seeds", pa.int64()), ("part", pa.string()), ("clips", pa.int64()), *_columns(LEVELS), ("p_gain", pa.float64()),
    ("p_looks", pa.float64())])
"""Columns of figures.csv and figures.parquet: a row for each arm and part; shares in [0, 1], 95 % intervals."""
ARMS = pa.schema([
    ("run", pa.string()), ("arm", pa.string()), ("kind", pa.string()), ("seeds", pa.int64()), ("steps", pa.int64()),
    *_columns(("loss_random", "probe")), ("probe_clips", pa.int64()), ("probe_classes", pa.int64()), ("parameters", pa.int64()),
    ("sampler_parameters", pa.int64()), *((name, pa.float64()) for name in COSTS)])
"""Columns of arms.csv: a row for each arm over all held-out clips; costs are means over seeds."""
CONTRASTS = pa.schema([
    ("run", pa.string()), ("first", pa.string()), ("second", pa.string()), ("about", pa.string()), ("part", pa.string()),
    *_columns(("difference",)), ("p_value", pa.float64())])
"""Columns of contrasts.csv: the first arm minus the second; p-values after Holm's correction."""


def export_tats(card: TatsCard, folder: Path) -> tuple[Path, ...]:
    """Write ``figures.csv``, ``figures.parquet``, ``arms.csv``, ``contrasts.csv`` and ``card.md``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = tats_figures(card)
    pq.write_table(figures, parquet := folder / "figures.parquet")
    paths = [parquet]
    for name, table in (("figures", figures), ("arms", _arms(card)), ("contrasts", _contrasts(card))):
        csv.write_csv(table, path := folder / f"{name}.csv")
        paths.append(path)
    write_text(text := folder / "card.md", tats_to_markdown(card))
    return *paths, text


def tats_figures(card: TatsCard) -> pa.Table:
    """Every figure of every arm and part."""
    rows = [{"run": card.name, "data_hash": card.data.get("hash"), "arm": one.arm, "kind": one.kind, "chooses": one.chooses,
             "seeds": len(one.seeds), "part": part.part, "clips": part.clips, "p_gain": part.p_gain, "p_looks": part.p_looks}
            | _spread(part, LEVELS) for one in card.results for part in one.parts]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def tats_to_markdown(card: TatsCard) -> str:
    """Arms and comparisons as tables for a paper or a README, with what they come to below."""
    parts = parts_of(card)
    head = ["arm", *(text for part in parts for text in (f"motion, {part}, %", "× chance")), "loss, common masks", "probe, %",
            "tokens/s", "peak memory", "entropy"]
    rows = []
    for one in card.results:
        own = {part.part: part for part in one.parts}
        cells = [text for part in parts for text in (
            (figure_text(own[part].sampled_motion, 100), times_text(own[part].times_chance)) if part in own else ("–", "–"))]
        rows.append([one.arm, *cells, figure_text(one.loss_random, digits=4), figure_text(one.probe, 100),
                     mean_text(one.tokens_per_second, 0), memory_text(one.peak_memory_bytes), mean_text(one.entropy_share, 2)])
    chances = [text for part in parts for text in (_chance(card, part), "1.00")]
    chance = ["*chance*", *chances, "–", _probe_chance(card), "–", "–", "1.00"]
    tables = [markdown_table(head, [*rows, chance])]
    if card.contrasts:
        tables.append(markdown_table(["difference", "of", "points, or loss", "p"], [
            [f"{one.first} − {one.second}", f"{one.about}{f', {one.part}' if one.part else ''}",
             figure_text(one.difference, *((1, 4) if one.about == "reconstruction" else (100, 1)), signed=True),
             p_words(one.p_value).removeprefix("p ").removeprefix("= ")] for one in card.contrasts]))
    return "\n\n".join([*tables, *_remarks(card)]) + "\n"


def figure_text(figure: Figure, scale: float = 1.0, digits: int = 1, *, signed: bool = False, bounds: bool = True) -> str:
    """``41.2 [36.0, 46.9]``, or with a sign before each number; a dash where it is not defined."""
    numbers = [figure.mean, figure.low, figure.high]
    texts = [_signed(one, scale, digits) if signed else number_text(one, scale, digits) for one in numbers]
    whole = bounds and figure.low is not None and figure.high is not None
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if whole else texts[0]


def times_text(figure: Figure) -> str:
    """``1.92 [1.70, 2.15]``."""
    return figure_text(figure, digits=2)


def p_words(value: float | None) -> str:
    """``p < 0.001`` or ``p = 0.012``."""
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def mean_text(values: Sequence[float], digits: int = 1) -> str:
    """The mean over seeds."""
    return number_text(round(fmean(values), digits) + 0.0 if values else None, digits=digits)


def memory_text(values: Sequence[int]) -> str:
    """Mean over seeds of bytes: ``512 MiB``, ``3.4 GiB``."""
    if not values:
        return "–"
    size = fmean(values) / 2**20
    return f"{size:,.0f} MiB" if size < 1000 else f"{size / 1024:,.1f} GiB"


def _signed(value: float | None, scale: float, digits: int) -> str:
    if value is None:
        return "–"
    text = f"{scale * value:+,.{digits}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _chance(card: TatsCard, part: str) -> str:
    known = [own.chance for one in card.results for own in one.parts if own.part == part]
    return figure_text(known[0], 100) if known else "–"


def _probe_chance(card: TatsCard) -> str:
    classes = next((one.probe_classes for one in card.results if one.probe_classes), None)
    return number_text(1 / classes, 100) if classes else "–"


def _spread(holder: Any, names: Sequence[str]) -> dict[str, float | None]:
    return {f"{name}{end}": getattr(getattr(holder, name), part) for name in names
            for end, part in (("", "mean"), ("_low", "low"), ("_high", "high"))}


def _arm(card: TatsCard, one: TatsResult) -> dict[str, Any]:
    same = {name: getattr(one, name) for name in ("arm", "kind", "steps", "probe_clips", "probe_classes", "parameters",
                                                  "sampler_parameters")}
    return {"run": card.name, "seeds": len(one.seeds), **same, **_spread(one, ("loss_random", "probe")),
            **{name: fmean(getattr(one, name)) for name in COSTS}}


def _arms(card: TatsCard) -> pa.Table:
    return pa.Table.from_pylist([_arm(card, one) for one in card.results], schema=ARMS)


def _contrasts(card: TatsCard) -> pa.Table:
    rows = [{"run": card.name, "first": one.first, "second": one.second, "about": one.about, "part": one.part,
             "p_value": one.p_value} | _spread(one, ("difference",)) for one in card.contrasts]
    return pa.Table.from_pylist(rows, schema=CONTRASTS)


def _remarks(card: TatsCard) -> list[str]:
    clips = sum(part.clips for part in card.results[0].parts) if card.results else 0
    facts = [f"{clips} held-out clips", f"data {card.data['hash']}" if "hash" in card.data else "",
             f"Squall {card.provenance['squall']}" if "squall" in card.provenance else "",
             "95 % bootstrap intervals over clips", "motion: share of drawn tokens on true motion"]
    remarks = [f"{', '.join(map(escape, filter(None, facts)))}.", *(f"- {escape(one)}" for one in (*card.says, *card.notes))]
    return remarks + [f"**Do not rely on these figures:** {escape(' '.join(card.unreliable))}"] * bool(card.unreliable)
