"""The card of masked video trainings, from the rows of held-out clips and from what each training cost. It needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.algorithms.sign_flips import sign_flip
from squall.algorithms.statistics import holm
from squall.jobs.console import counted, say, say_table
from squall.jobs.tats_contrasts import make_contrasts
from squall.jobs.tats_doubts import card_doubts
from squall.jobs.tats_rows import ArmRows, HeldRows, read_held
from squall.jobs.tats_words import card_notes, card_says
from squall.jobs.video_attack_figures import ClipFigures, rounded
from squall.platform.errors import DataError
from squall.platform.report.tats_export import figure_text, mean_text, memory_text
from squall.platform.report.tats_tables import part_of, parts_of
from squall.platform.tats_card import PARTS, TatsCard, TatsMeasure, TatsPart, TatsResult

FACTS = ("name", "data", "asked", "provenance", "lost")
BLIND = ("random", "tube")
"""Samplers that look at nothing, and whose motion is no finding."""
SIGNS = 20_000
"""Drawn for a sign-flip test: p-values below 5e-5 are not told apart."""
_LEVELS = ("sampled_motion", "visible_motion", "loss_own", "loss_random", "loss_moving", "loss_still")
_SHARES = ("sampled_motion", "visible_motion", "chance", "blind")
_COLUMN = {"chance": "motion", "blind": "blind_motion"}
_COSTS = ("seconds", "tokens_per_second", "peak_memory_bytes", "entropy_share", "overlap", "collapsed_steps")


def build_tats_card(table: pa.Table, measures: Sequence[TatsMeasure], facts: Mapping[str, Any]) -> TatsCard:
    """Compute the card of a run.

    Args:
        table: rows as in `TATS_CLIPS`, in any order.
        measures: one for every arm and seed that was trained.
        facts: fields of `TatsCard` that do not follow from them: name, data, asked (its ``arms`` give the order), provenance,
            and where there is any, lost.

    Raises:
        DataError: a row is there twice (reason ``double_rows``), or a row or measure is of an arm that the run has not
            (``unknown_arm``), or of a part that is not known (``unknown_part``).
    """
    arms = list(facts["asked"]["arms"])
    if others := sorted({one.arm for one in measures} - set(arms)):
        raise DataError(f"the measures hold an arm '{others[0]}' that the run has not; it has {', '.join(arms)}",
                        reason="unknown_arm")
    held = read_held(table, arms)
    ordered = sorted(measures, key=lambda one: (arms.index(one.arm), one.seed))
    results = _results(held, ordered)
    card = TatsCard(**{name: facts[name] for name in FACTS if name in facts}, results=results, measures=tuple(ordered),
                    contrasts=make_contrasts(results, held, SIGNS))
    return card.model_copy(update={"says": card_says(card), "notes": card_notes(card), "unreliable": card_doubts(card, held)})


def facts_of(card: TatsCard) -> dict[str, Any]:
    """What `build_tats_card` needs beside rows and measures to make a card again."""
    return {name: getattr(card, name) for name in FACTS}


def _results(held: HeldRows, measures: Sequence[TatsMeasure]) -> tuple[TatsResult, ...]:
    by_arm = {arm: [one for one in measures if one.arm == arm] for arm in held.arms}
    parts = {arm: [_part(part, held, held.arms[arm]) for part in PARTS if held.within(part).any()]
             for arm, own in by_arm.items() if own}
    tests = [(arm, number, column) for arm, own in parts.items() if by_arm[arm][0].kind not in BLIND
             for number in range(len(own)) for column in ("motion", "blind_motion")]
    adjusted = holm([_p_value(held, held.arms[arm], parts[arm][number].part, column) for arm, number, column in tests])
    for (arm, number, column), p in zip(tests, adjusted, strict=True):
        name = "p_gain" if column == "motion" else "p_looks"
        parts[arm][number] = parts[arm][number].model_copy(update={name: p})
    return tuple(_result(arm, held.arms[arm], parts[arm], own) for arm, own in by_arm.items() if own)


def _result(arm: str, rows: ArmRows, parts: Sequence[TatsPart], measures: Sequence[TatsMeasure]) -> TatsResult:
    figures, first = ClipFigures(), measures[0]
    for name in ("loss_random", "probe_correct"):
        _add_level(figures, name, rows, name, rows.known(name))
    drawn = figures.draw()
    costs = {name: tuple(getattr(one, name) for one in measures) for name in _COSTS}
    return TatsResult(
        arm=arm, kind=first.kind, chooses=first.chooses, seeds=tuple(one.seed for one in measures), parts=tuple(parts),
        loss_random=drawn["loss_random"], probe=drawn["probe_correct"], probe_clips=int(rows.known("probe_correct").sum()),
        probe_classes=first.probe_classes, **costs, steps=first.steps, parameters=first.parameters,
        sampler_parameters=first.sampler_parameters)


def _part(part: str, held: HeldRows, rows: ArmRows) -> TatsPart:
    within, figures = held.within(part), ClipFigures()
    for name in dict.fromkeys([*_SHARES, *_LEVELS]):
        column = _COLUMN.get(name, name)
        _add_level(figures, name, rows, column, within & rows.known(column))
    for name, column in (("gain", "motion"), ("looks", "blind_motion")):
        _add_gain(figures, name, rows, column, within & rows.known("sampled_motion", column))
    _add_times(figures, rows, within & rows.known("sampled_motion", "motion"))
    clips = int((within & rows.known("loss_random")).sum())
    return TatsPart(part=part, clips=clips, **figures.draw(), p_gain=None, p_looks=None)


def _add_level(figures: ClipFigures, name: str, rows: ArmRows, column: str, counted: np.ndarray) -> None:
    values = np.where(counted, rows.values[column], 0.0)
    figures.add(name, values, np.broadcast_to(counted, values.shape), (0.0, max(1.0, float(values.max(initial=0.0)))))


def _add_gain(figures: ClipFigures, name: str, rows: ArmRows, column: str, counted: np.ndarray) -> None:
    values = np.where(counted, rows.values["sampled_motion"] - rows.values[column], 0.0)
    figures.add(name, values, np.broadcast_to(counted, values.shape), (-1.0, 1.0))


def _add_times(figures: ClipFigures, rows: ArmRows, counted: np.ndarray) -> None:
    sampled, chance = (np.where(counted, rows.means(column), 0.0) for column in ("sampled_motion", "motion"))
    most = float((sampled / np.where(chance > 0, chance, np.inf)).max(initial=1.0))
    seeds = tuple(rounded(own[counted].sum() / chance.sum()) if chance.sum() else None for own in rows.values["sampled_motion"])
    figures.add_ratio("times_chance", np.where(chance > 0, sampled, 0.0), chance, (0.0, most), seeds)


def _p_value(held: HeldRows, rows: ArmRows, part: str, column: str) -> float | None:
    counted = held.within(part) & rows.known("sampled_motion", column)
    return sign_flip((rows.means("sampled_motion") - rows.means(column))[counted], SIGNS) if counted.any() else None


def say_tats_card(card: TatsCard, console: Console) -> None:
    """The main figures on the terminal, what they come to, and what not to trust."""
    parts = parts_of(card)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    heads = ["arm", *(head for part in parts for head in (f"motion, {part}, %", "× chance")), "loss", "probe, %", "seconds",
             "tokens/s", "memory"]
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for one in card.results:
        cells = [text for part in parts if (own := part_of(one, part)) for text in (
            figure_text(own.sampled_motion, 100), figure_text(own.times_chance, digits=2, bounds=False))]
        table.add_row(one.arm, *cells, figure_text(one.loss_random, digits=4, bounds=False), figure_text(one.probe, 100),
                      mean_text(one.seconds, 0), mean_text(one.tokens_per_second, 0), memory_text(one.peak_memory_bytes))
    clips = sum(part.clips for part in card.results[0].parts) if card.results else 0
    say(console, f"{counted(clips, 'held-out clip')}, 95 % intervals over them; motion is the share of drawn tokens on true "
                 "motion, loss is under random masks that are the same for all:")
    say_table(console, table)
    for sentence in (*card.says, *(f"unreliable: {reason}" for reason in card.unreliable)):
        say(console, sentence)
