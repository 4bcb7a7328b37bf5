"""The page of an attack: of one model, of several, or of a trial. Words and layout are in the templates.

Its headline is the worst case over all attacks; what PGD alone would say stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from squall.platform.attack_card import AttackCard
from squall.platform.report import attack_tables as tables
from squall.platform.report.attack_charts import colours, near, query_panels, robustness_panels
from squall.platform.report.attack_examples import AttackedImage, example_cards
from squall.platform.report.attack_indicators import INDICATORS, IndicatorRow, entropy_rows, indicator_panels, indicator_rows
from squall.platform.report.attack_landscape import EDGE, SIDE, landscapes
from squall.platform.report.attack_subjects import (
    AUTOATTACK,
    PGD,
    ROLES,
    TRANSFER,
    WORST,
    Subject,
    attack_names,
    attack_text,
    compact,
    main_threat,
    measure,
    subjects,
    threat_text,
    threats,
)
from squall.platform.report.evaluation import figure_environment
from squall.platform.report.evaluation_tables import rows_of
from squall.platform.runs import write_text

PAGE_FILE = "report.html"
OVERSTATED = 5.0
"""Points by which PGD alone may be above the worst case before the page says that it misleads."""
ROLE_NAMES = {PGD: "PGD", TRANSFER: "transfer", AUTOATTACK: "AutoAttack"}

__all__ = ["AttackedImage", "write_attack_report"]


def write_attack_report(
    folder: Path,
    card: AttackCard,
    table: pa.Table | None = None,
    examples: Sequence[AttackedImage] = (),
    *,
    command: str | None = None,
) -> Path:
    """Write ``report.html`` into the folder and return its path. Everything is inside the file; all text is escaped.

    Args:
        folder: the run directory, in which the card's landscapes are files.
        table: rows of `squall.platform.attack_card.ATTACKS`; without them there are no curves over queries.
        examples: shown beside each other, in this order.
        command: the command line that makes the page again.
    """
    environment = figure_environment()
    environment.filters |= {"threat": threat_text, "attack": attack_text, "measure": measure, "compact": compact}
    page = environment.get_template("attacks.html.jinja").render(
        **_figures(card), **_pictures(folder, card, table), examples=example_cards(examples),
        lost=card.lost, notes=card.notes, warnings=warnings(card), attacks_asked=tables.asked_attacks(card.asked),
        asked=_facts(card), provenance=rows_of([card.provenance]), command=command)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _figures(card: AttackCard) -> dict[str, Any]:
    """What stands in words and tables."""
    found, main = subjects(card), main_threat(card)
    rungs = tables.ladder(card, found, main)
    best, weakest, overstated = tables.worst_of(rungs)
    contrasts, axis = tables.contrast_rows(card, found, main)
    indicators = indicator_rows(found)
    return {
        "card": card, "found": found, "main": main, "trial": bool(card.arms), "single": len(found) == 1 and not card.arms,
        "rungs": rungs, "roles": [role for role in ROLES if any(rung.mark(role) for rung in rungs)],
        "best": best, "weakest": weakest, "overstated": overstated, "tolerated": OVERSTATED,
        "attacks": attack_names(found), "role_names": ROLE_NAMES, "best_by_pgd": _best_by_pgd(rungs),
        "alarms": tables.alarms(card.models), "alarmed": [model for model in card.models if tables.alarms([model])],
        "unmeasured": sum(check.passed is None for model in card.models for check in model.checks),
        "checked": [model for model in card.models if model.checks], "checks_of": tables.checks_of,
        "raised": tables.raised, "equal_compute": tables.equal_compute(card.arms),
        "check_titles": tables.CHECKS, "pivots": [tables.pivot(card, model, main) for model in card.models],
        "meanings": tables.meanings(card, found), "matrices": tables.transfer_matrices(card, found, main),
        "indicators": indicators, "indicator_names": _measured(indicators), "entropies": entropy_rows(found),
        "most_bits": _most_bits(card), "contrasts": contrasts, "contrast_axis": axis,
        "subject_colours": colours(subject.name for subject in found), "attack_colours": colours(attack_names(found)),
        "WORST": WORST, "TRANSFER": TRANSFER}


def _pictures(folder: Path, card: AttackCard, table: pa.Table | None) -> dict[str, Any]:
    found = subjects(card)
    drawn, top, problems = landscapes(folder, found)
    return {"curves": robustness_panels(found), "curves_all": _all_drawn(found), "indicator_panels": indicator_panels(found),
            "queries": query_panels(found, table, main_threat(card)), "landscapes": drawn, "landscape_top": top,
            "landscape_problems": problems, "SIDE": SIDE, "EDGE": EDGE}


def _all_drawn(found: Sequence[Subject]) -> bool:
    """Whether the curves reach the largest budget of each norm."""
    by_norm: dict[str, list[float]] = {}
    for norm, epsilon in threats(found):
        by_norm.setdefault(norm, []).append(epsilon)
    return all(len(near(own)) == len(own) for own in by_norm.values() if len(near(own)) > 1)


def _best_by_pgd(rungs: Sequence[tables.Rung]) -> tables.Rung | None:
    return max((rung for rung in rungs if (pgd := rung.mark(PGD)) is not None and pgd.value is not None),
               key=lambda rung: rung.mark(PGD).value, default=None)


def _measured(rows: Sequence[IndicatorRow]) -> list[tuple[str, str, str]]:
    """Columns of which something is known."""
    return [column for column in INDICATORS if any(row.values[column[0]] is not None for row in rows)]


def _most_bits(card: AttackCard) -> float | None:
    """Entropy of a uniform answer."""
    classes = card.data.get("classes")
    count = len(classes) if isinstance(classes, (list, tuple)) else classes
    return math.log2(count) if isinstance(count, int) and count > 0 else None


def _facts(card: AttackCard) -> list[tuple[str, tuple[str, ...], bool]]:
    """Data and how it was asked, without the attacks, which have a list of their own."""
    asked = {key: value for key, value in card.asked.items() if key not in ("attacks", "strikes")}
    budgets = asked.get("budgets")
    if isinstance(budgets, Sequence) and all(isinstance(one, dict) and {"norm", "epsilon"} <= set(one) for one in budgets):
        asked["budgets"] = [threat_text((one["norm"], one["epsilon"])) for one in budgets]
    return rows_of([{"data": card.data, "asked": asked}])


def warnings(card: AttackCard) -> list[tuple[str, tuple[str, ...]]]:
    """(what, reasons why its figures should not be trusted): the card first, then its models."""
    found = [("All figures", card.unreliable), *((model.name, model.unreliable) for model in card.models)]
    return [(name, reasons) for name, reasons in found if reasons]
