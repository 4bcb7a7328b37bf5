"""One page over several runs of attacks on the same clips, such as on several victims: their results side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from squall.platform.report.evaluation import figure_environment
from squall.platform.report.video_attack_export import figure_text, number_text
from squall.platform.runs import write_text
from squall.platform.video_attack_card import VideoAttackCard

TABLES = (
    ("Fooled, % of attacked clips", lambda one: figure_text(one.success, 100)),
    ("Queries a clip, failures counted at the budget", lambda one: figure_text(one.queries)),
    ("Queries a clip with the training's shared out over the attacked clips", lambda one: number_text(one.amortised_queries)),
    ("Queries of one training", lambda one: f"{one.training_queries:,}"),
    ("L2 of the change, of clips that were fooled", lambda one: figure_text(one.l2, digits=2)),
    ("SSIM, of clips that were fooled", lambda one: figure_text(one.ssim, digits=3)),
    ("Cells with a changed pixel, of clips that were fooled", lambda one: figure_text(one.cells)),
)
"""(title, what it says of a result)."""


def write_video_attack_comparison(path: Path, cards: Sequence[VideoAttackCard], *, command: str | None = None) -> Path:
    """Write the page and return its path. Everything is inside the file; all text is escaped.

    Args:
        cards: of runs over the same data, in the order of the columns.
        command: the command line that makes the page again.
    """
    attacks = list(dict.fromkeys(one.attack for card in cards for one in card.results))
    found = [{one.attack: one for one in card.results} for card in cards]
    tables = [(title, [(name, [say(own[name]) if name in own else "" for own in found]) for name in attacks])
              for title, say in TABLES]
    page = figure_environment().get_template("video_attack_comparison.html.jinja").render(
        cards=cards, attacked=[max((one.attacked for one in card.results), default=0) for card in cards], tables=tables,
        differing=differing(cards), command=command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def differing(cards: Sequence[VideoAttackCard]) -> list[tuple[str, list[str]]]:
    """Settings of the attacks that are not the same in all runs: (key, its value in each)."""
    texts = [{key: json.dumps(value, ensure_ascii=False) for key, value in _flat(card.asked).items()} for card in cards]
    keys = dict.fromkeys(key for own in texts for key in own)
    return [(key, values) for key in keys if len(set(values := [own.get(key, "–") for own in texts])) > 1]


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
