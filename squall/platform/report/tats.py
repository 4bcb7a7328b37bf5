"""The page of masked video trainings. Words and layout are in the templates; this file prepares what they show.

It shows first whether TATS finds true motion and which controls it beats, then where every sampler looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from squall.platform.report.attack_charts import colours
from squall.platform.report.attack_tables import asked_attacks
from squall.platform.report.evaluation_tables import rows_of
from squall.platform.report.tats_charts import learning_plots, strips
from squall.platform.report.tats_export import figure_text, mean_text, memory_text
from squall.platform.report.tats_masks import MaskExample
from squall.platform.report.tats_pictures import masked_clips
from squall.platform.report.tats_tables import LEAD, WHERE, contrast_reading, cost_rows, listed, parts_of, standings
from squall.platform.report.video_attack_headline import reading
from squall.platform.report.video_attacks import clip_environment
from squall.platform.runs import write_text
from squall.platform.tats_card import TatsCard
from squall.platform.video_attack_card import Figure

PAGE_FILE = "report.html"


def write_tats_report(folder: Path, card: TatsCard, masks: Sequence[MaskExample] = (), command: str | None = None) -> Path:
    """Write ``report.html`` into the folder and return its path. Everything is inside the file; all text is escaped.

    Args:
        masks: shown over playing clips, the first ones of every part.
        command: the command line that makes the page again.
    """
    environment = clip_environment()
    environment.filters |= {
        "figure": figure_text, "bounded": _bounded, "mean": mean_text, "memory": memory_text, "listed": listed}
    arms = [one.arm for one in card.results]
    page = environment.get_template("tats.html.jinja").render(
        card=card, lead_kind=LEAD, where=WHERE, parts=parts_of(card), standings=standings(card), strips=strips(card),
        learning=learning_plots(card, colours(arms)), colours=colours(arms), costs=cost_rows(card), reading=reading,
        contrast_reading=contrast_reading, clips=masked_clips(masks, arms), several_seeds=_several(card), **_asked(card),
        command=command)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _bounded(figure: Figure, scale: float = 1.0, digits: int = 1, signed: bool = False) -> Markup:
    """A figure's interval in small letters; empty without one."""
    _, bracket, rest = figure_text(figure, scale, digits, signed=signed).partition("[")
    return Markup(" <small>{}</small>").format(bracket + rest) if bracket else Markup("")


def _several(card: TatsCard) -> bool:
    return any(len(one.seeds) > 1 for one in card.results)


def _asked(card: TatsCard) -> dict[str, Any]:
    """How it was asked and made, arms in a list of their own."""
    asked = {key: value for key, value in card.asked.items() if key != "arms"}
    return {"asked": rows_of([{"data": card.data, **asked}]), "provenance": rows_of([card.provenance]),
            "arms_asked": asked_attacks({"attacks": card.asked.get("arms", {})})}
