"""Card and page of an attack run, from its rows: when they are all in, and again without a model."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from squall.jobs.attack_card import build_attack_card, facts_of
from squall.jobs.attack_examples import read_examples
from squall.jobs.attack_files import holds_attacks, read_card, read_rows, write_rows
from squall.jobs.console import say
from squall.platform.attack_card import ATTACKS, ATTACKS_FILE, CARD_FILE, AttackCard
from squall.platform.report.attack_export import export_attacks
from squall.platform.report.attacks import write_attack_report
from squall.platform.report.evaluation import bounds, percent
from squall.platform.report_card import Estimate
from squall.platform.runs import RunDirectory, from_here

JOB = "attack image"


def write_attacks(folder: RunDirectory, table: pa.Table) -> None:
    """Write ``attacks.parquet`` in one piece."""
    write_rows(folder.path / ATTACKS_FILE, table)


def write_attack_card(folder: RunDirectory, card: AttackCard, table: pa.Table) -> None:
    """Write a card, its figures and its page; `table` holds the rows that it was computed from."""
    folder.write_json(CARD_FILE, card.model_dump(mode="json"))
    command = shlex.join(["squall", "report", str(from_here(folder.path))])
    write_attack_report(folder.path, card, table, read_examples(folder.path), command=command)
    export_attacks(card, folder.path / "figures")


def remake_attack(folder: RunDirectory) -> AttackCard:
    """Compute card and page again from the rows, without a model.

    Raises:
        DataError: not all is attacked yet.
    """
    table = read_attacks(folder.path)
    card = build_attack_card(table, facts_of(read_attack_card(folder.path)))
    write_attack_card(folder, card, table)
    return card


def read_attack_card(folder: Path) -> AttackCard:
    """The card in a run directory. Raises DataError where there is none or it is not one."""
    return read_card(folder, AttackCard, JOB)


def read_attacks(folder: Path) -> pa.Table:
    """The rows in a run directory. Raises DataError where there are none, or not as this version writes them."""
    return read_rows(folder / ATTACKS_FILE, ATTACKS, JOB)


def is_attack(folder: RunDirectory) -> bool:
    """Whether a run directory is an attack's."""
    return holds_attacks(folder, ATTACKS_FILE, "attack")


def say_attack_card(card: AttackCard, console: Console) -> None:
    """The main figures on the terminal."""
    for model in card.models:
        say(console, f"{model.name}: clean {_shown(model.clean)}")
        for budget in model.budgets:
            say(console, f"  {budget.norm} {budget.epsilon:.4g}: {_shown(budget.robust_accuracy)} stand against everything, "
                         f"worst {budget.worst_attack or 'unknown'}")
        for reason in model.unreliable:
            say(console, f"  unreliable: {reason}")
    for reason in card.unreliable:
        say(console, f"unreliable: {reason}")


def _shown(estimate: Estimate) -> str:
    """``63.5 % [60.1, 67.0]``."""
    return "unknown" if estimate.value is None else f"{percent(estimate)} % {bounds(estimate)}"
