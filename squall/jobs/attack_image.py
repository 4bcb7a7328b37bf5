"""`squall attack image CONFIG`: attack image classifiers from all sides, and write what is left of their accuracy.

Everything that a model is asked is in a ledger, so that an interrupted run goes on with the next chunk; card and page are made
from the rows alone.
"""

from __future__ import annotations

import time

from rich.console import Console

from squall.jobs.attack_card import build_attack_card
from squall.jobs.attack_image_plan import AttackImageConfig, AttackPlan, prepare
from squall.jobs.attack_models import LEDGER_FILE, AttackRun, attack_models
from squall.jobs.attack_report import say_attack_card, write_attack_card, write_attacks
from squall.jobs.console import counted, say
from squall.jobs.resume import check_settings, resumable
from squall.platform.attack_card import CARD_FILE
from squall.platform.config import dump_yaml
from squall.platform.runs import RunDirectory

__all__ = ["AttackImageConfig", "run"]

JOB = "attack image"
SHOWN_LOSSES = 5
"""On the terminal; the card has all."""


def run(config: AttackImageConfig) -> int:
    """Attack what has not been attacked yet, and write rows, card and page. Returns 1 where nothing is known, else 0."""
    console, started = Console(), time.monotonic()
    plan = prepare(config)
    folder = RunDirectory.create(config.output, JOB.replace(" ", "-"), config.name, resume=config.resume)
    lock = folder.lock()
    try:
        begin(folder, plan)
        for line in (*plan.lines(), str(folder.path)):
            say(console, line)
        with resumable(JOB, folder, console, lambda: f"what was asked is in {LEDGER_FILE}"):
            found = attack_models(plan.models, plan.targets, plan.battery, config.workers, folder, console,
                                  diagnosis=config.diagnosis, ray_address=config.ray_address)
            return finish(plan, folder, found, time.monotonic() - started, console)
    finally:
        lock.close()


def begin(folder: RunDirectory, plan: AttackPlan) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: what is there came about in another way.
    """
    now = {"models": {model.name: model.hash for model in plan.models}, "data": plan.data, "asked": plan.asked}
    resumed = check_settings(folder, plan.config.resume, now,
                             {"models": "other models", "data": "other images", "asked": "other settings"})
    folder.write_config(f"job: {JOB}\n" + dump_yaml(plan.resolved(folder.name, folder.path.parent)))
    folder.write_plan("\n".join(plan.lines()) + "\n")
    folder.write_provenance(plan.config.seed)
    folder.event("resumed" if resumed else "started", job=JOB)


def finish(plan: AttackPlan, folder: RunDirectory, found: AttackRun, wall_s: float, console: Console) -> int:
    """Write the rows, the card and the page, and say what came of it. Returns the exit status."""
    for sentence in found.lost[:SHOWN_LOSSES]:
        say(console, f"lost: {sentence}")
    if found.lost:
        say(console, f"{counted(len(found.lost), 'piece')} of work lost, each named in {folder.path / CARD_FILE}; --resume "
                     "tries again")
    if not found.table.num_rows:
        folder.event("stopped", error="no model answered")
        say(console, "no model answered, so there is no card")
        return 1
    write_attacks(folder, found.table)
    card = build_attack_card(found.table, {
        "name": folder.name, "data": plan.data, "asked": plan.asked, "provenance": folder.lasting_provenance(),
        "lost": found.lost, "models": found.models})
    write_attack_card(folder, card, found.table)
    total = found.total
    folder.event("finished", rows=found.table.num_rows, lost=len(found.lost), queries=total.queries, gradients=total.gradients)
    say(console, f"{total.queries:,} queries and {total.gradients:,} gradients, all in {folder.path / LEDGER_FILE}; took "
                 f"{wall_s:.1f} s")
    say_attack_card(card, console)
    say(console, f"report: {folder.report}")
    return 0
