"""The card of attacks on clips, from its rows and from what was measured once. It needs no victim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.jobs.console import counted, say, say_table
from squall.jobs.video_attack_contrasts import RANDOM, contrast_pairs, make_contrasts
from squall.jobs.video_attack_doubts import broken_off, card_doubts
from squall.jobs.video_attack_figures import ClipFigures
from squall.jobs.video_attack_rows import Attempts, read_attempts
from squall.jobs.video_attack_words import card_notes, short_sentence
from squall.platform.report.attack_subjects import entries
from squall.platform.report.video_attack_export import figure_text, number_text
from squall.platform.report_card import Estimate
from squall.platform.video_attack_card import Training, VideoAttackCard, VideoAttackResult, VideoTransfer

FACTS = ("name", "victim", "data", "asked", "provenance", "trainings", "ledger", "lost")
CURVE_POINTS = 200
"""A longer curve is thinned out; no step of it is then higher than one in so many."""
FIGURES = ("success", "queries", "removal_queries", "l2", "linf", "mean_abs", "ssim", "flicker", "cells", "frames")


def build_video_attack_card(table: pa.Table, facts: Mapping[str, Any]) -> VideoAttackCard:
    """Compute the card of a run.

    Args:
        table: rows as in `VIDEO_ATTACKS`, in any order.
        facts: fields of `VideoAttackCard` that do not follow from them (name, victim, data, asked, provenance, and where
            there are any trainings, ledger, lost); ``descriptions``, {attack: (kind, line)} in the order of the configuration;
            ``budget``, the most queries that an attack may spend on a clip.

    Raises:
        DataError: a row is there twice (reason ``double_rows``) or is of another attack (``unknown_attack``).
    """
    order = sorted(facts["descriptions"], key=lambda name: facts["descriptions"][name][0] != "learned")
    attempts, budget = read_attempts(table, order), int(facts["budget"])
    trainings = [Training.model_validate(one) for one in facts.get("trainings", ())]
    spans = _spans(facts, budget)
    results = tuple(_result(name, attempts[name], facts["descriptions"][name], trainings, budget, spans) for name in order)
    pairs = contrast_pairs(results, _random(facts["asked"]))
    card = VideoAttackCard(
        **{name: facts[name] for name in FACTS if name in facts}, results=results,
        contrasts=make_contrasts(pairs, results, attempts, budget), transfers=tuple(_transfers(attempts)))
    return card.model_copy(update={
        "notes": (*card_notes(card), *broken_off(card, attempts)), "unreliable": card_doubts(card, attempts, budget)})


def facts_of(card: VideoAttackCard) -> dict[str, Any]:
    """What `build_video_attack_card` needs beside the rows to make a card again."""
    return {name: getattr(card, name) for name in FACTS} | {
        "descriptions": {one.attack: (one.kind, one.description) for one in card.results},
        "budget": card.asked["attack"]["max_queries"]}


def _random(asked: Mapping[str, Any]) -> str | None:
    """The name that a run has for random cells."""
    return next((name for name, own in entries(asked) if RANDOM in (own.get("control"), own.get("kind"))), None)


def _spans(facts: Mapping[str, Any], budget: int) -> dict[str, tuple[float, float]]:
    """The least and the most that each figure can be."""
    frames, height, width, channels = facts["data"]["shape"]
    block, cell = (facts["asked"]["attack"][name] for name in ("block", "cell"))
    most = {"queries": budget, "removal_queries": budget, "l2": (frames * height * width * channels) ** 0.5,
            "flicker": 2**0.5, "cells": (frames // block) * (height // cell) * (width // cell), "frames": frames}
    return {name: (-1.0 if name == "ssim" else 0.0, float(most.get(name, 1))) for name in FIGURES}


def _result(name: str, attempts: Attempts, description: tuple[str, str], trainings: Sequence[Training], budget: int,
            spans: Mapping[str, tuple[float, float]]) -> VideoAttackResult:
    counted = np.broadcast_to(attempts.whole, attempts.known.shape)
    spent, fooled = attempts.spent(budget), attempts.fooled & counted
    figures = ClipFigures()
    figures.add("success", attempts.values["fooled"], counted, spans["success"])
    figures.add("queries", spent, counted, spans["queries"])
    for column in FIGURES[2:]:
        figures.add(column, attempts.values[column], fooled, spans[column])
    drawn, own = figures.draw(), [one.queries for one in trainings if one.attack == name]
    return VideoAttackResult(
        attack=name, kind=description[0], description=description[1], seeds=attempts.seeds,
        attacked=int(attempts.whole.sum()), **drawn,
        queries_median=float(np.median(spent[counted])) if counted.any() else None,
        curve=_curve(attempts, spent, counted, budget), training_queries=round(float(np.mean(own))) if own else 0)


def _curve(attempts: Attempts, spent: np.ndarray, counted: np.ndarray, budget: int
           ) -> tuple[tuple[int, float, float, float], ...]:
    """Where it rises, from the first query to the last. Bounds rise with it: where two draws disagree, the wider one counts."""
    if not counted.any():
        return ()
    rises = np.unique(np.concatenate([[1.0], spent[attempts.fooled & counted], [float(budget)]])).astype(np.int64)
    if len(rises) > CURVE_POINTS:
        rises = rises[np.linspace(0, len(rises) - 1, CURVE_POINTS).round().astype(np.int64)]
    figures = ClipFigures()
    for queries in rises:
        figures.add(str(queries), attempts.fooled & (spent <= queries), counted, (0.0, 1.0))
    points = list(figures.draw().values())
    means = [one.mean or 0.0 for one in points]
    low = [mean if one.low is None else one.low for one, mean in zip(points, means, strict=True)]
    high = [mean if one.high is None else one.high for one, mean in zip(points, means, strict=True)]
    bounds = np.minimum.accumulate(low[::-1])[::-1].tolist(), np.maximum.accumulate(high).tolist()
    return tuple(zip(rises.tolist(), means, *bounds, strict=True))


def _transfers(attempts: Mapping[str, Attempts]) -> Iterator[VideoTransfer]:
    victims = list(dict.fromkeys(victim for own in attempts.values() for victim in own.shown))
    for name, own in attempts.items():
        nothing = np.zeros(own.known.shape, bool)
        for victim in victims:
            right, fell = own.shown.get(victim, (nothing, nothing))
            figures, shown = ClipFigures(), int(right.any(0).sum())
            figures.add("fooled", fell, right, (0.0, 1.0))
            one = figures.draw()["fooled"]
            yield VideoTransfer(attack=name, victim=victim, shown=shown,
                                fooled=Estimate(value=one.mean, low=one.low, high=one.high, n=shown))


def say_video_attack_card(card: VideoAttackCard, console: Console) -> None:
    """The main figures on the terminal, how the first learned attack stands against the others, and what not to trust."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    heads = ("attack", "fooled, %", "queries a clip", "training queries", "cells", "ssim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for one in card.results:
        table.add_row(one.attack, figure_text(one.success, 100), figure_text(one.queries), f"{one.training_queries:,}",
                      number_text(one.cells.mean), number_text(one.ssim.mean, digits=3))
    attacked = max((one.attacked for one in card.results), default=0)
    say(console, f"{counted(attacked, 'clip')} attacked, failures counted at the budget, 95 % intervals over clips, p after "
                 "Holm's correction; cells and ssim of clips that were fooled:")
    say_table(console, table)
    for contrast in card.contrasts:
        if contrast.first == card.results[0].attack:
            say(console, short_sentence(contrast))
    for reason in card.unreliable:
        say(console, f"unreliable: {reason}")
