"""`squall annotate MANIFEST OUTPUT`: reasoning for supervised fine-tuning, from a model's own answers (ROVA, Video-R1).

A model answers every question a few times on the path that training uses; the best answer is kept where its reward is high
enough, and its reasoning stands in the new manifest. Every answered question is noted at once, so that a killed run goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from rich.console import Console

from squall.actors.sampling import GroupSampler
from squall.jobs.annotate_output import AnnotationFolder, Answered, Lost, is_kept, judge
from squall.jobs.annotate_plan import AnnotateConfig, Annotation, Target, prepare
from squall.jobs.asking import asking
from squall.jobs.console import counted, say
from squall.jobs.session import rollout_demands
from squall.platform.errors import FULL_DISK, SquallError
from squall.platform.work_progress import WorkProgress

__all__ = ["AnnotateConfig", "run"]

SHOWN_LOSSES = 5
"""On the terminal; lost.jsonl has all."""


def run(config: AnnotateConfig) -> int:
    """Ask what has not been answered yet and write what is good enough. Returns 1 where nothing is, else 0."""
    console, started = Console(), time.monotonic()
    work = prepare(config)
    with AnnotationFolder.open(work) as folder:
        answered, lost = folder.earlier(work), [Lost(one.sample_id, one.reason, one.message) for one in work.rejected]
        todo = [target for target in work.targets if target.sample.id not in answered]
        announce(work, len(answered), console)
        try:
            if todo:
                ask_all(work, folder, todo, answered, lost, console)
        except KeyboardInterrupt:
            say(console, f"stopped: {len(answered):,} of {counted(len(work.targets), 'question')} are answered; the same "
                         "command goes on")
            raise
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise SquallError(f"no room on the disk for {error.filename or folder.path} ({error.strerror}); what was answered "
                              "before is good. Make room, then go on with the same command") from error
        folder.write_lost(lost)
        summary = folder.finish(work, answered, lost)
    return report(work, folder, summary, lost, time.monotonic() - started, console)


def announce(work: Annotation, done: int, console: Console) -> None:
    """One line on what there is to do."""
    config, there = work.config, f", {done:,} are answered" if done else ""
    about = "" if config.corruption is None else " about corrupted clips"
    say(console, f"{counted(len(work.targets), 'question')}, {counted(config.answers, 'answer')} each{about} by "
                 f"{config.model.path} with {counted(work.sampler.engine.count, 'engine')}, into {config.output}{there}")


def ask_all(work: Annotation, folder: AnnotationFolder, todo: Sequence[Target], answered: dict[str, Answered],
            lost: list[Lost], console: Console) -> None:
    """Ask questions and put what came of them into `answered` and `lost`.

    Raises:
        SquallError: the actors cannot start, or one is stuck or gone for good.
    """
    bound, count = work.config.keep_above, len(todo)
    with sampling(work, folder, console) as sampler, WorkProgress("questions", count, count, console=console) as progress:
        for number, target in enumerate(todo):
            sampler.submit(number, work.plan(target))
        while count:
            for number, outcome in sampler.poll(5.0, may_publish=True):
                target, kept, count = todo[number], False, count - 1
                if outcome.scored is None:
                    lost.append(Lost(target.sample.id, outcome.failure.reason, outcome.failure.message))
                else:
                    best = judge(target, outcome.scored, work.config.rewards.weights)
                    folder.record(best)
                    answered[target.sample.id], kept = best, is_kept(best, bound)
                progress.advance(number, 1.0, kept=kept, lost=outcome.scored is None)
        if retried := sampler.take_retries():
            progress.note("tried again: " + listed(retried))


def sampling(work: Annotation, folder: AnnotationFolder, console: Console) -> AbstractContextManager[GroupSampler]:
    """Engines and workers, from their start to their end."""
    sampler = GroupSampler(replace(work.sampler, logs=folder.logs))
    return asking(sampler, rollout_demands(work.sampler.engine, work.config.workers), work.config.model.path,
                  work.config.ray_address, folder.note_ray, console)


def report(work: Annotation, folder: AnnotationFolder, summary: Mapping[str, Any], lost: Sequence[Lost], wall_s: float,
           console: Console) -> int:
    """What came of it. Returns the exit status."""
    for one in lost[:SHOWN_LOSSES]:
        say(console, f"lost: {one.message}")
    if lost:
        say(console, f"{counted(len(lost), 'question')} lost ({listed(summary['lost'])}), named in {folder.lost}")
    say(console, f"{counted(summary['asked'], 'question')} asked, {summary['kept']:,} kept, {summary['below']:,} not above "
                 f"{summary['keep_above']:g} ({summary['without_format']:,} of them without an answer in the format); "
                 f"{summary['tokens']:,} tokens; took {wall_s:.1f} s")
    if not summary["kept"]:
        say(console, f"nothing was kept and {work.config.output} not written: {why_nothing(work, summary, lost)}")
        return 1
    say(console, f"manifest: {work.config.output}")
    return 0


def why_nothing(work: Annotation, summary: Mapping[str, Any], lost: Sequence[Lost]) -> str:
    """Why no answer was kept, and what to do."""
    if not summary["asked"]:
        return f"no question could be answered; the first reason: {lost[0].message}"
    if not summary["well_formed"]:
        return (f"none of {counted(summary['answers'], 'answer')} has reasoning in <think> and an answer in <answer> tags; "
                "take a model that was trained to, data.prompt_template=video_r1, which asks for them, or a higher max_tokens "
                f"(now {work.sampling.max_tokens:,})")
    return (f"the best reward was {summary['best_reward']:.3g}; take a better model or more answers, or lower keep_above "
            f"(now {summary['keep_above']:g}), which asks nothing again")


def listed(counts: Mapping[str, int]) -> str:
    """``decode_error 2, too_long 1``."""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())
