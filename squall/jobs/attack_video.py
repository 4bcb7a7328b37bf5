"""`squall attack video CONFIG`: attackers that learn across clips against a video classifier, and controls beside them.

The victim is opened or made, attackers are trained, held-out clips are attacked, and a card is computed from the rows. What is
trained and what is attacked is kept, so that an interrupted run goes on; every clip that a victim sees is in the ledger.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from squall.actors.clip_attacks import ClipAttackRun, abandoned
from squall.actors.cluster import start_ray, stop_ray
from squall.actors.logs import messages_of_ray
from squall.actors.resources import ClusterResources, ResourcePlan
from squall.actors.victim_ledger import Tally
from squall.algorithms.statistics import wilson_interval
from squall.jobs.attack_video_campaign import LEDGER_FILE, Campaign
from squall.jobs.attack_video_config import AttackVideoConfig, demands, phases, steps
from squall.jobs.attack_video_plan import VideoAttackPlan, prepare
from squall.jobs.attack_video_victims import VideoVictim
from squall.jobs.console import phase, say
from squall.jobs.resume import check_settings, resumable, resume_command
from squall.jobs.video_attack_card import build_video_attack_card, say_video_attack_card
from squall.jobs.video_attack_report import write_video_attack_card, write_video_attacks
from squall.platform.config import dump_yaml
from squall.platform.hosting import current_host
from squall.platform.report.video_attack_examples import write_clips
from squall.platform.report_card import Estimate
from squall.platform.runs import RunDirectory, append_line
from squall.platform.video_attack_card import CARD_FILE, VideoAttackCard

__all__ = ["AttackVideoConfig", "demands", "run", "steps"]

JOB = "attack video"
SHOWN_LOSSES = 5
"""On the terminal; the card has all."""


def run(config: AttackVideoConfig) -> int:
    """Make the victim, train attackers, attack clips, as far as that is not done, and write rows, card and page.

    Returns 1 where nothing is known, else 0.
    """
    console, started = Console(), time.monotonic()
    plan = prepare(config, console)
    folder = RunDirectory.create(config.output, JOB.replace(" ", "-"), config.name, resume=config.resume)
    with ExitStack() as stack:
        stack.callback(folder.lock().close)
        begin(folder, plan)
        for line in (*plan.lines(), str(folder.path)):
            say(console, line)
        stack.enter_context(resumable(JOB, folder, console, lambda: "what is trained and what is attacked is kept"))
        cluster = join(folder, config, console, stack)
        for part in phases(config):
            ResourcePlan(part).check(cluster)
        campaign = Campaign(plan, folder, console, stack)
        right = campaign.look()
        campaign.train()
        found = campaign.attack(right)
        return finish(campaign, right, found, campaign.close(), time.monotonic() - started)


def begin(folder: RunDirectory, plan: VideoAttackPlan) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: what is there came about in another way.
    """
    resumed = check_settings(folder, plan.config.resume, {"victim": plan.victim_asked, "data": plan.data, "asked": plan.asked},
                             {"victim": "another victim", "data": "other clips", "asked": "other settings"})
    folder.write_config(f"job: {JOB}\n" + dump_yaml(plan.resolved(folder.name, folder.path.parent)))
    folder.write_plan("\n".join([*plan.lines(), *ResourcePlan(demands(plan.config)).lines()]) + "\n")
    folder.write_provenance(plan.config.seed)
    folder.event("resumed" if resumed else "started", job=JOB)


def join(folder: RunDirectory, config: AttackVideoConfig, console: Console, stack: ExitStack) -> ClusterResources:
    """Join or start Ray until `stack` is closed."""
    with phase(console, "starting Ray", "ray", {}):
        cluster = start_ray(config.ray_address)
    stack.callback(stop_ray)
    stack.enter_context(messages_of_ray(lambda line: append_line(folder.logs / "ray.log", line)))
    return cluster


def finish(campaign: Campaign, right: np.ndarray, found: ClipAttackRun, tally: Tally, wall_s: float) -> int:
    """Write rows, card and page, and say what came of it. Returns the exit status."""
    folder, console, plan = campaign.folder, campaign.console, campaign.plan
    for sentence in found.lost[:SHOWN_LOSSES]:
        say(console, f"lost: {sentence}")
    if found.lost:
        say(console, f"each loss is named in {folder.path / CARD_FILE}; try again with: {resume_command(JOB, folder)}")
    if not found.table.num_rows:
        folder.event("stopped", error="no attack came to its end")
        say(console, "no attack came to its end, so there is no card")
        return 1
    write_video_attacks(folder, found.table)
    write_clips(folder.path, found.examples)
    facts = victim_facts(campaign.victim, right)
    card = build_video_attack_card(found.table, {
        "name": folder.name, "victim": facts, "data": plan.data, "asked": plan.asked, "provenance": folder.lasting_provenance(),
        "trainings": campaign.trainings.records(tally.purposes), "ledger": accounts(tally, found.table), "lost": found.lost,
        "descriptions": plan.descriptions, "budget": plan.config.attack.max_queries})
    write_video_attack_card(folder, card, found.table)
    folder.event("finished", rows=found.table.num_rows, lost=len(found.lost), queries=tally.begun)
    campaign.tracker.log(steps(plan.config), figures(card))
    current_host().settled()
    say(console, f"{tally.begun:,} clips through the victim, all in {folder.path / LEDGER_FILE}; took {wall_s:.0f} s")
    say_video_attack_card(card, console)
    say(console, f"report: {folder.report}")
    return 0


def victim_facts(victim: VideoVictim, right: np.ndarray) -> dict[str, Any]:
    """What the card says of the victim; the interval of its accuracy is Wilson's."""
    low, high = wilson_interval(int(right.sum()), len(right))
    return {**victim.facts, "accuracy": Estimate.of(right.mean(), low, high, len(right)).model_dump()}


def accounts(tally: Tally, table: pa.Table) -> dict[str, int]:
    """The ledger as the card has it. What attacks asked that were broken off and begun again stands under ``abandoned/``."""
    broken = abandoned(table, {purpose: count for purpose, count in tally.purposes.items() if purpose.startswith("attack/")})
    asked = {purpose: count - broken.get(purpose, 0) for purpose, count in tally.purposes.items()}
    return {"begun": tally.begun, "answered": tally.answered, "lost": tally.lost, **asked,
            **{purpose.replace("attack/", "abandoned/", 1): count for purpose, count in broken.items()}}


def figures(card: VideoAttackCard) -> dict[str, float]:
    """What a sweep compares: success and queries of every attack, lower queries with failures at the budget."""
    return {f"attack/{one.attack}/{name}": value.mean for one in card.results
            for name, value in (("success", one.success), ("queries", one.queries)) if value.mean is not None}
