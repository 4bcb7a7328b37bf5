"""`squall corrupt SRC OUT`: corrupted copies of video files, with a manifest that says what was done to each.

A single file with a single corruption is written right here. Everything else is a list of tasks, one for each clip under each
corruption, that Ray Data spreads over the cluster; a finished file is noted at once, so that a killed run goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from squall.actors.cluster import set_threads
from squall.actors.file_corruption import FileOutcome, corrupt_file
from squall.algorithms.corruption.check import check_kind
from squall.jobs.console import counted, print_checks, say
from squall.jobs.corrupt_config import CorruptConfig
from squall.jobs.corrupt_output import OutputFolder
from squall.jobs.corrupt_plan import Work, command_line, plan_work
from squall.jobs.corrupt_preview import write_preview
from squall.jobs.corrupt_show import print_kinds
from squall.jobs.corrupt_work import say_failures, stages_line, work_through, writing
from squall.platform.errors import DataError, SquallError
from squall.platform.work_progress import WorkProgress

__all__ = ["CorruptConfig", "run"]


def run(config: CorruptConfig) -> int:
    """Do what was asked for. Returns 0 when all is well, 1 when a check failed or a file could not be made."""
    console = Console()
    if config.list:
        return print_kinds(console)
    if config.check is not None:
        return print_checks(config.check, check_kind(config.check), console)
    work = plan_work(config)
    if work.one_file:
        return corrupt_one(work, console)
    with writing(work.output, config) as (folder, workers):
        failures = corrupt_all(work, folder, workers, console) if config.writes_files else []
        if config.preview or not config.writes_files:
            write_preview(work, config, workers, command_line(), console)
    return 1 if failures else 0


def corrupt_all(work: Work, folder: OutputFolder, workers: int, console: Console) -> list[tuple[str, str]]:
    """Make every file that is not there yet, then manifest and summary. Returns (reason, message) of those that failed.

    Raises:
        SquallError: the disk is full, or no file could be made.
    """
    started = time.monotonic()
    done = folder.outcomes(work)
    announce(work, len(done), workers, console)
    try:
        lost = work_through(work, folder, done, workers, console)
    except KeyboardInterrupt:
        say(console, f"stopped: {counted(len(done), 'file')} of {len(work.tasks):,} are finished; go on with --resume")
        raise
    failed = [(rejection.reason, rejection.message) for rejection in work.rejected] + sorted(lost.values())
    if not done:
        raise DataError(f"{work.output}: no file could be made: {failed[0][1]}" + _more(len(failed) - 1), reason="no_clips")
    wall_s = time.monotonic() - started
    folder.finish(work, done, failed, wall_s, workers)
    report(folder, list(done.values()), failed, wall_s, console)
    return failed


def announce(work: Work, done: int, workers: int, console: Console) -> None:
    """One line on what there is to do."""
    ways = f" x {len(work.variants):,} corruptions" if len(work.variants) > 1 else ""
    there = f", {done:,} of {len(work.tasks):,} files are there" if done else ""
    say(console, f"{counted(len(work.clips), 'clip')}{ways} with {counted(workers, 'worker')} into {work.output}{there}")


def report(folder: OutputFolder, done: Sequence[FileOutcome], failed: Sequence[tuple[str, str]], wall_s: float,
           console: Console) -> None:
    """What came of it."""
    say_failures(folder, failed, console)
    frames = sum(outcome.facts["frames"] for outcome in done)
    lost = f", {len(failed):,} could not be made" if failed else ""
    say(console, f"{counted(len(done), 'file')}, {counted(frames, 'frame')}{lost}; took {wall_s:.1f} s")
    say(console, stages_line(done))
    say(console, f"manifest: {folder.manifest}")


def corrupt_one(work: Work, console: Console) -> int:
    """Write a single file, in this process.

    Raises:
        SquallError: it cannot be made.
    """
    (task,) = work.tasks
    set_threads(task.threads)
    with WorkProgress("files", 1, 1.0, console=console) as progress:
        outcome = corrupt_file(task, lambda share: progress.running(0, share))
    if outcome.status != "done":
        raise SquallError(f"{outcome.message}; nothing was written")
    say(console, f"{task.output}: {counted(outcome.facts['frames'], 'frame')}, {task.spec or 'clean'}")
    say(console, stages_line([outcome]))
    return 0


def _more(count: int) -> str:
    return f" ({count:,} more)" if count > 0 else ""
