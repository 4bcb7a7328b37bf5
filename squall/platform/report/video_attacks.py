"""The page of attacks on a video classifier. Words and layout are in the templates; this file prepares what they show.

Its headline sets the learned attackers against random moves and against the best control, with what training cost beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment

from squall.platform.report import video_attack_tables as tables
from squall.platform.report.attack_charts import colours
from squall.platform.report.attack_subjects import measure
from squall.platform.report.evaluation import figure_environment
from squall.platform.report.evaluation_tables import rows_of
from squall.platform.report.page import signed
from squall.platform.report.video_attack_by_clip import by_clip
from squall.platform.report.video_attack_charts import amortisation_plot, learning_plots, success_plot
from squall.platform.report.video_attack_examples import AttackedClip, clip_cards
from squall.platform.report.video_attack_headline import headline, reading
from squall.platform.report_card import Estimate
from squall.platform.runs import write_text
from squall.platform.video_attack_card import VideoAttackCard

PAGE_FILE = "report.html"

__all__ = ["AttackedClip", "write_video_attack_report"]


def write_video_attack_report(
    folder: Path,
    card: VideoAttackCard,
    table: pa.Table | None = None,
    examples: Sequence[AttackedClip] = (),
    command: str | None = None,
) -> Path:
    """Write ``report.html`` into the folder and return its path. Everything is inside the file; all text is escaped.

    Args:
        table: rows of `squall.platform.video_attack_card.VIDEO_ATTACKS`; without them it is not shown clip by clip.
        examples: shown as playing clips, in this order.
        command: the command line that makes the page again.
    """
    page = clip_environment().get_template("video_attacks.html.jinja").render(
        card=card, **_figures(card), **_pictures(card, table), examples=clip_cards(examples), more=len(examples),
        asked=_facts(card), provenance=rows_of([card.provenance]), attacks_asked=tables.asked_of(card.asked), command=command)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def clip_environment() -> Environment:
    """Templates with filters for figures over clips, as video_attack_parts.html.jinja uses them."""
    environment = figure_environment()
    environment.filters |= {
        "measure": measure, "measures": partial(tables.spread, text=measure), "count": tables.count, "counts": tables.spread,
        "share": tables.share, "change": _change}
    return environment


def _figures(card: VideoAttackCard) -> dict[str, Any]:
    """What stands in words and tables."""
    victims, transfers = tables.transfer_rows(card)
    head = headline(card)
    told = [head.lead.attack, *(one.second.attack for one in head.against)] if head else []
    return {"head": head, "told": told, "budget": budget_of(card), "forest": tables.forest(card.contrasts),
            "victim": str(card.victim.get("name", "the victim")), "accuracy": _estimate(card.victim.get("accuracy")),
            "classes": _length(card.victim.get("classes")), "others": victims, "transfers": transfers,
            "ledger": tables.ledger_table(card.ledger, [one.attack for one in card.results]),
            "unaccounted": tables.unaccounted(card.ledger),
            "colours": colours_of(card), "reading": reading,
            "several_seeds": any(len(result.seeds) > 1 for result in card.results)}


def _pictures(card: VideoAttackCard, table: pa.Table | None) -> dict[str, Any]:
    head, colour, budget = headline(card), colours_of(card), budget_of(card)
    told = [one for one in (head.lead, head.random, head.best) if one is not None] if head else []
    banded = [one.attack for one in (*told, *card.results) if one in told or one.kind == "learned"]
    clips = max((result.attacked for result in card.results), default=0)
    return {"success": success_plot(card, budget, colour, banded), "learning": learning_plots(card.trainings, colour),
            "amortised": amortisation_plot(card, colour, card.contrasts, clips, head.paid if head else ()),
            "by_clip": by_clip(table, [result.attack for result in card.results], budget)}


def colours_of(card: VideoAttackCard) -> dict[str, str]:
    """Classes of every attack's lines and marks, the same throughout the page."""
    names = [result.attack for result in card.results]
    return colours(dict.fromkeys([*names, *(training.attack for training in card.trainings)]))


def budget_of(card: VideoAttackCard) -> int:
    """Queries that an attack may ask, as it was configured, or as far as the curves go."""
    attack = card.asked.get("attack")
    asked = attack.get("max_queries") if isinstance(attack, Mapping) else None
    reached = max((point[0] for result in card.results for point in result.curve), default=1)
    return max(int(asked or reached), 1)


def _estimate(value: Any) -> Estimate | None:
    return Estimate.model_validate(value) if isinstance(value, Mapping) else value if isinstance(value, Estimate) else None


def _length(classes: Any) -> int | None:
    return classes if isinstance(classes, int) else len(classes) if isinstance(classes, (list, tuple, Mapping)) else None


def _change(value: float | None, unit: float = 1.0) -> str:
    """A difference with its sign; a dash where it is not defined."""
    return "–" if value is None else signed(unit * value)


def _facts(card: VideoAttackCard) -> list[tuple[str, tuple[str, ...], bool]]:
    """Victim, data and how it was asked, without the attacks, which have a list of their own."""
    victim = {key: value for key, value in card.victim.items() if key not in ("accuracy", "classes")}
    asked = {key: value for key, value in card.asked.items() if key != "attacks"}
    return rows_of([{"victim": victim, "data": card.data, **asked}])
