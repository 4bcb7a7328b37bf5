"""`squall trial CONFIG`: does a way of training make a classifier robust, or only look so?

Arms are trained with the same compute and several seeds, attacked with the same attacks, shown each other's examples, and
searched for signs of gradient masking. What is trained and what was asked is kept, so that an interrupted trial goes on.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from squall.actors.arm_training import Trained, train_all
from squall.actors.cluster import start_ray, stop_ray
from squall.actors.resources import Demand, ResourcePlan
from squall.jobs.attack_card import build_attack_card, standings_of
from squall.jobs.attack_image_plan import AttackPlan
from squall.jobs.attack_image_plan import prepare as prepare_attack
from squall.jobs.attack_models import LEDGER_FILE, AttackRun, attack_models
from squall.jobs.attack_report import write_attack_card, write_attacks
from squall.jobs.console import counted, phase, say
from squall.jobs.resume import resumable, resume_command
from squall.jobs.trial_card import CLAIMS_FROM, arm_scores, contrast_keys, make_arm, make_contrasts, say_arms
from squall.jobs.trial_plan import MODELS, TrialConfig, TrialWork, describe_arm, prepare
from squall.platform.attack_card import AttackCard
from squall.platform.config import dump_yaml
from squall.platform.errors import ConfigError, SquallError
from squall.platform.image_classifiers import FACTS
from squall.platform.runs import RunDirectory, read_json
from squall.platform.work_progress import WorkProgress

__all__ = ["TrialConfig", "run"]

JOB = "trial"


def run(config: TrialConfig) -> int:
    """Train what has not been trained, attack what has not been attacked, and write rows, card and page. Returns 1 where
    something was lost, else 0."""
    console, started = Console(), time.monotonic()
    work = prepare(config)
    folder = RunDirectory.create(config.output, JOB, config.name, resume=config.resume)
    with ExitStack() as stack:
        stack.callback(folder.lock().close)
        begin(folder, work)
        for line in (*work.lines(), str(folder.path)):
            say(console, line)
        stack.enter_context(resumable(JOB, folder, console, lambda: f"what was trained is in {MODELS}/, what was asked in "
                                                                    f"{LEDGER_FILE}"))
        with phase(console, "starting Ray", "ray", {}):
            cluster = start_ray(config.ray_address)
        stack.callback(stop_ray)
        ResourcePlan([Demand("training", 1, config.trainings.cpus, config.trainings.gpus)]).check(cluster)
        train(work, folder, console)
        plan = plan_attack(work, folder)
        found = attack_models(plan.models, plan.targets, plan.battery, plan.config.workers, folder, console,
                              diagnosis=plan.config.diagnosis, ray_address=config.ray_address)
        return finish(work, plan, folder, found, time.monotonic() - started, console)


def begin(folder: RunDirectory, work: TrialWork) -> None:
    """Write what the run is, or check that it is the one that was begun.

    Raises:
        ConfigError: what is there came about in another way.
    """
    stored = read_json(folder.path / "settings.json") if work.config.resume else {}
    for key, value in stored.items():
        if value != work.asked[key]:
            raise ConfigError(f"{folder.path}: was begun with other {key}; its models would not be comparable with new ones. "
                              "Resume it as it was, or give another name")
    resolved = work.config.model_copy(update={"name": folder.name, "output": folder.path.parent, "resume": False})
    folder.write_json("settings.json", work.asked)
    folder.write_config(f"job: {JOB}\n" + dump_yaml(resolved))
    folder.write_plan("\n".join(work.lines()) + "\n")
    folder.write_provenance(work.config.seeds[0])
    folder.event("resumed" if stored else "started", job=JOB)


def train(work: TrialWork, folder: RunDirectory, console: Console) -> None:
    """Train what has no checkpoint yet.

    Raises:
        SquallError: a training failed; the others are kept.
    """
    todo = [one for _, _, one in work.trainings(folder.path) if not (one.folder / FACTS).is_file()]
    weights = {one.name: one.config.total_steps(len(work.train)) * one.config.batch_size for one in todo}
    failed: list[Trained] = []
    with WorkProgress("classifiers trained", len(todo), sum(weights.values()), console=console) as progress:
        for number, done in enumerate(train_all(todo, work.train, work.config.trainings)):
            name = done.training.name
            if done.attempts > 1:
                progress.note(f"{name}: its process died; begun {done.attempts} times")
            if done.problem:
                failed.append(done)
                progress.note(f"{name}: {done.problem}")
            folder.event("failed" if done.problem else "trained", model=name, problem=done.problem or None,
                         attempts=done.attempts, seconds=done.facts.get("seconds"))
            progress.advance(number, weights[name], failed=bool(done.problem))
    if failed:
        raise SquallError(f"{counted(len(failed), 'training')} of {len(todo)} failed, the first: {failed[0].training.name}: "
                          f"{failed[0].problem}; mend it and go on with: {resume_command(JOB, folder)}")


def plan_attack(work: TrialWork, folder: RunDirectory) -> AttackPlan:
    """The attack of all models, which know their arms and seeds."""
    trainings = work.trainings(folder.path)
    config = work.config.attack_on([{"path": str(one.folder), "name": one.name} for _, _, one in trainings])
    plan = prepare_attack(config, work.test)
    return replace(plan, models=tuple(replace(model, arm=arm, seed=seed)
                                      for model, (arm, seed, _) in zip(plan.models, trainings, strict=True)))


def finish(work: TrialWork, plan: AttackPlan, folder: RunDirectory, found: AttackRun, wall_s: float, console: Console) -> int:
    """Write the rows, the card and the page, and say what came of it. Returns the exit status."""
    write_attacks(folder, found.table)
    card = build_attack_card(found.table, {
        "name": folder.name, "data": plan.data, "asked": {**plan.asked, **work.asked, "data": plan.data["hash"]},
        "provenance": folder.lasting_provenance(), "lost": found.lost, "models": found.models, "notes": notes(work)})
    if not found.lost:
        card = with_arms(card, work, found)
    write_attack_card(folder, card, found.table)
    folder.event("finished", rows=found.table.num_rows, lost=len(found.lost), queries=found.total.queries,
                 gradients=found.total.gradients)
    for sentence in found.lost:
        say(console, f"lost: {sentence}")
    if found.lost:
        say(console, f"arms are not compared while something is lost; try again with: {resume_command(JOB, folder)}")
    else:
        say_arms(card, console)
    say(console, f"{len(found.models)} models, {found.total.queries:,} queries and {found.total.gradients:,} gradients; took "
                 f"{wall_s:.0f} s")
    say(console, f"report: {folder.report}")
    return 1 if found.lost else 0


def with_arms(card: AttackCard, work: TrialWork, found: AttackRun) -> AttackCard:
    """The card with what it says of arms."""
    standings = standings_of(found.table, card.asked)
    scores = {name: arm_scores(name, [model for model in card.models if model.arm == name], standings) for name in work.fits}
    return card.model_copy(update={
        "arms": tuple(make_arm(scores[name], describe_arm(fit)) for name, fit in work.fits.items()),
        "contrasts": make_contrasts(scores, work.config.contrasts, contrast_keys(card))})


def notes(work: TrialWork) -> tuple[str, ...]:
    """What a reader of the card must know."""
    few = len(work.config.seeds) < CLAIMS_FROM
    return ("Figures of an arm are means over its seeds; intervals are 95 % bootstrap intervals over images of what the seeds "
            "reach on average.",
            *([f"Fewer than {CLAIMS_FROM} seeds: the trial shows that it runs, and claims nothing about arms."] if few else []))
