"""The page of an evaluation, or of several side by side. Words and layout are in the template; this prepares what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from squall.platform.report.evaluation_charts import CLEAN, COLOURS, CORRUPTED, kind_bars, plain, reliability, severity_panels
from squall.platform.report.evaluation_tables import (
    MAIN,
    asked_rows,
    comparison_table,
    condition_rows,
    figures,
    group_table,
    losses,
    rows_of,
)
from squall.platform.report.examples import WorstCase, worst_case_card
from squall.platform.report.page import signed, template_environment
from squall.platform.report_card import CLEAN as CLEAN_CONDITION
from squall.platform.report_card import ComparisonCard, Estimate, ReportCard
from squall.platform.runs import write_text

GROUPINGS = (("By family", "by_family"), ("By severity", "by_severity"), ("By question type", "by_question_type"))


def write_evaluation_report(
    path: Path,
    cards: Sequence[ReportCard],
    comparisons: Sequence[ComparisonCard] = (),
    examples: Sequence[WorstCase] = (),
    *,
    command: str | None = None,
) -> Path:
    """Write the page and return its path. Everything is inside the file; all text is escaped.

    Args:
        cards: one, or several that stand side by side in this order.
        comparisons: of pairs of the cards.
        examples: shown as playing clips, in this order; see `squall.jobs.evaluate_examples`.
        command: the command line that makes the page again.
    """
    names, contrasts = labels(cards), [comparison_table(card) for card in comparisons]
    groups = [group_table(heading, [getattr(card, field) for card in cards]) for heading, field in GROUPINGS]
    page = figure_environment().get_template("evaluation.html.jinja").render(
        cards=cards,
        labels=names,
        named=list(zip(names, cards, strict=True)),
        colours=[COLOURS[number % len(COLOURS)] for number in range(len(cards))],
        warnings=warnings(cards, comparisons),
        verdicts=[(table.card, contrast, effect) for table in contrasts for contrast, effect in table.main if effect],
        main_names=MAIN,
        figures=figures(cards),
        panels=severity_panels(cards),
        bars=kind_bars(cards),
        comparisons=contrasts,
        groups=[group for group in groups if group],
        examples=[worst_case_card(example) for example in examples],
        calibration=calibration_panels(cards),
        conditions=condition_rows(cards),
        clean_condition=CLEAN_CONDITION,
        corrected=sum(result.p_holm is not None for result in cards[0].conditions),
        losses=[losses(card) for card in cards],
        notes=list(dict.fromkeys(note for card in cards for note in card.notes)),
        asked=asked_rows(cards),
        provenance=rows_of([card.provenance for card in cards]),
        command=command,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def figure_environment() -> Environment:
    """Templates of this folder, with filters for estimates too, as figures.html.jinja uses them."""
    environment = template_environment()
    environment.filters |= {"percent": percent, "bounds": bounds, "points": points, "p": p_text, "plain": plain}
    return environment


def percent(value: Estimate | float | None) -> str:
    """A fraction as ``63.5``, in percent; a dash where it is not defined."""
    number = value.value if isinstance(value, Estimate) else value
    return "–" if number is None else f"{100 * number:.1f}".replace("-", "−")


def bounds(value: Estimate | None) -> str:
    """An interval as ``[60.1, 67.0]``, in percent; empty without one."""
    if value is None or value.low is None or value.high is None:
        return ""
    return f"[{percent(value.low)}, {percent(value.high)}]"


def points(value: Estimate | None) -> str:
    """A change as ``−4.5``, in points."""
    return "–" if value is None or value.value is None else signed(100 * value.value)


def p_text(value: float | None) -> str:
    """``<0.001`` or three decimals; a dash without one."""
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def labels(cards: Sequence[ReportCard]) -> list[str]:
    """What the page calls each card: its model, and its run too where two models are called the same."""
    names = [str(card.model.get("label") or card.name) for card in cards]
    return [f"{name} ({card.name})" if names.count(name) > 1 else name for name, card in zip(names, cards, strict=True)]


def warnings(cards: Sequence[ReportCard], comparisons: Sequence[ComparisonCard]) -> list[tuple[str, tuple[str, ...]]]:
    """(what, reasons why its figures should not be trusted), for cards, comparisons, and cards that saw different data."""
    found = [(name, card.unreliable) for name, card in zip(labels(cards), cards, strict=True)]
    found += [(f"{card.second} against {card.first}", card.unreliable) for card in comparisons]
    if len({str(card.data.get("hash")) for card in cards}) > 1:
        found.append(("All runs together", ("They answered different questions, or the same ones about other files (the data "
                                            "hashes differ): compare figures only where a contrast pairs them.",)))
    return [(name, reasons) for name, reasons in found if reasons]


def calibration_panels(cards: Sequence[ReportCard]) -> list[dict[str, Any]]:
    """For each card with confidences: its diagram, and (clean or corrupted, calibration)."""
    found = []
    for name, card in zip(labels(cards), cards, strict=True):
        parts = [("clean", CLEAN, card.calibration_clean), ("corrupted", CORRUPTED, card.calibration_corrupted)]
        panel = reliability(name if len(cards) > 1 else "Right answers over confidence, %", parts)
        if panel is not None:
            found.append({"panel": panel, "parts": [(label, colour, part) for label, colour, part in parts if part]})
    return found
