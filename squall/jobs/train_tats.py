"""`squall train tats CONFIG`: masked video autoencoders trained with samplers that learn what to mask, and controls.

Every arm is trained with every seed under one budget, several trainings at a time, each a Ray Train group of its own; then all
are measured on the same held-out clips. Trainings have checkpoints, and what is measured is kept, so that an interrupted run
goes on. With one arm and one seed it is a plain training, whose ``models/ARM/seed-S`` opens as a Hugging Face VideoMAE.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.gauges import RayGauges
from squall.actors.logs import messages_of_ray
from squall.actors.resources import ClusterResources, ResourcePlan
from squall.jobs.console import phase, say
from squall.jobs.resume import check_settings, resumable
from squall.jobs.tats_card import build_tats_card, say_tats_card
from squall.jobs.tats_report import write_tats_card, write_tats_rows
from squall.jobs.train_tats_config import TatsConfig, demands, steps
from squall.jobs.train_tats_plan import TatsPlan, prepare
from squall.jobs.train_tats_training import MODELS, RayGroups, TatsTrainings
from squall.platform.config import dump_yaml
from squall.platform.hosting import current_host
from squall.platform.report.tats_masks import write_masks
from squall.platform.runs import RunDirectory, append_line, from_here
from squall.platform.tats_card import MASKS_FOLDER, TatsCard
from squall.platform.tracking import open_tracker

__all__ = ["TatsConfig", "demands", "run", "steps"]

JOB = "train tats"
SHOWN_LOSSES = 3
"""Clips that cannot be used and are named on the terminal; all are in events.jsonl."""


def run(config: TatsConfig) -> int:
    """Train and measure, as far as that is not done, and write rows, card and page."""
    console, started, seconds = Console(), time.monotonic(), {}
    with phase(console, "reading the clips", "clips", seconds):
        plan = prepare(config)
    lines = [*plan.lines(), *ResourcePlan(demands(config)).lines()]
    if config.plan:
        for line in lines:
            say(console, line)
        return 0
    folder = RunDirectory.create(config.output, JOB.split()[-1], config.name, resume=config.resume)
    with ExitStack() as stack:
        stack.callback(folder.lock().close)
        begin(folder, plan, lines)
        for line in (*lines, str(folder.path)):
            say(console, line)
        note_dropped(folder, plan, console)
        stack.enter_context(resumable(JOB, folder, console, lambda: "trainings have checkpoints, and what is measured is kept"))
        trainings = train(plan, folder, console, stack)
        card = finish(trainings, plan, folder)
        say(console, f"took {time.monotonic() - started:.0f} s; models in {from_here(folder.path / MODELS)}")
        say_tats_card(card, console)
        say(console, f"report: {folder.report}")
    return 0


def begin(folder: RunDirectory, plan: TatsPlan, lines: Sequence[str]) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: what is there came about in another way.
    """
    resumed = check_settings(folder, plan.config.resume, {"data": plan.data, "asked": plan.asked},
                             {"data": "other clips", "asked": "other settings"})
    folder.write_config(f"job: {JOB}\n" + dump_yaml(plan.resolved(folder.name, folder.path.parent)))
    folder.write_plan("\n".join(lines) + "\n")
    folder.write_provenance(plan.config.trained_seeds[0])
    folder.event("resumed" if resumed else "started", job=JOB)


def note_dropped(folder: RunDirectory, plan: TatsPlan, console: Console) -> None:
    """Say which clips cannot be used."""
    for line in plan.dropped:
        folder.event("clip_dropped", message=line)
    for line in plan.dropped[:SHOWN_LOSSES]:
        say(console, f"left out: {line}")
    if plan.dropped:
        say(console, f"{len(plan.dropped):,} clips are left out, each named in {from_here(folder.events)}")


def train(plan: TatsPlan, folder: RunDirectory, console: Console, stack: ExitStack) -> TatsTrainings:
    """Join or start Ray and train and measure what is not done."""
    config = plan.config
    with phase(console, "starting Ray", "ray", {}):
        cluster = start_ray(config.ray_address)
    stack.callback(stop_ray)
    stack.enter_context(messages_of_ray(lambda line: append_line(folder.logs / "ray.log", line)))
    tracker = open_tracker(folder.path, config.tracking, config.model_dump(mode="json"), [RayGauges(folder.name)],
                           current_host().sinks)
    stack.callback(tracker.close)
    trainings = TatsTrainings(plan, folder, tracker, console)
    trainings.run(RayGroups(plan), at_once(config, cluster))
    return trainings


def at_once(config: TatsConfig, cluster: ClusterResources) -> int:
    """Trainings at the same time. Raises ResourceError where the cluster does not hold one."""
    wanted = ResourcePlan(demands(config))
    wanted.check(cluster)
    fits = wanted.fits(cluster)
    return min(config.trainings_at_once or fits, fits)


def finish(trainings: TatsTrainings, plan: TatsPlan, folder: RunDirectory) -> TatsCard:
    """Write rows, measures, masks, card and page."""
    table, measures = trainings.rows(), trainings.measures()
    write_tats_rows(folder, table, measures)
    write_masks(folder.path / MASKS_FOLDER, trainings.masks())
    card = build_tats_card(table, measures, {"name": folder.name, "data": plan.data, "asked": plan.asked,
                                             "provenance": folder.lasting_provenance()})
    write_tats_card(folder, card)
    folder.event("finished", rows=table.num_rows, trainings=len(measures))
    return card
