"""`squall corrupt SRC OUT`: corrupted copies of video files, with a manifest that says what was done to each.

A single file with a single corruption is written right here. Everything else is a list of tasks, one for each clip under each
corruption, that Ray Data spreads over the cluster; a finished file is noted at once, so that a killed run goes on from there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from squall.actors.cluster import Demand, ResourcePlan, set_threads, start_ray, stop_ray
from squall.actors.file_corruption import FileOutcome, corrupt_file, corrupt_files
from squall.actors.logs import messages_of_ray
from squall.algorithms.corruption.check import check_kind
from squall.jobs.console import counted, print_checks, say
from squall.jobs.corrupt_output import OutputFolder, check_output, corrupt_share, explain_full_disk, stage_seconds
from squall.jobs.corrupt_plan import CorruptConfig, Work, command_line, plan_work
from squall.jobs.corrupt_preview import write_preview
from squall.jobs.corrupt_show import print_kinds
from squall.platform.errors import FULL_DISK, DataError, SquallError
from squall.platform.work_progress import WorkProgress

__all__ = ["CorruptConfig", "run"]

SHOWN_FAILURES = 10
"""On the terminal; summary.json has all."""


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
    check_output(work.output, config)
    cluster = start_ray(config.ray_address)
    try:
        ResourcePlan((Demand("corruption worker", config.workers or 1, config.threads_per_clip),)).check(cluster)
        workers = config.workers or max(1, int(cluster.cpus // config.threads_per_clip))
        with OutputFolder.open(work.output, config) as folder, messages_of_ray(folder.note_ray):
            failures = [] if config.preview_alone else corrupt_all(work, folder, workers, console)
            if config.preview or config.preview_alone:
                write_preview(work, config, workers, command_line(), console)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise SquallError(f"no room on the disk for {error.filename or work.output} ({error.strerror}); what was finished "
                          "before is good. Make room, then go on with --resume") from error
    finally:
        stop_ray()
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
    failed = [(rejection.reason, rejection.message) for rejection in work.rejected] + lost
    if not done:
        raise DataError(f"{work.output}: no file could be made: {failed[0][1]}" + _more(len(failed) - 1), reason="no_clips")
    wall_s = time.monotonic() - started
    folder.finish(work, done, failed, wall_s, workers)
    report(folder, list(done.values()), failed, wall_s, console)
    return failed


def work_through(work: Work, folder: OutputFolder, done: dict[int, FileOutcome], workers: int,
                 console: Console) -> list[tuple[str, str]]:
    """Run the tasks that are not in `done` and put them there. Returns (reason, message) of those that failed, sorted."""
    todo = {task.number: task for task in work.tasks if task.number not in done}
    weights = {number: _size(Path(task.source)) for number, task in todo.items()}
    failed = []
    with WorkProgress("files", len(todo), sum(weights.values()), console=console) as progress:
        for outcome in corrupt_files(list(todo.values()), workers, lambda i, share: progress.running(i, share * weights[i])):
            if outcome.status == "full_disk":
                raise explain_full_disk(outcome.message, len(done), folder.path)
            del todo[outcome.number]
            if outcome.status == "done":
                folder.record(work, outcome)
                done[outcome.number] = outcome
            else:
                failed.append((outcome.reason, outcome.message))
            progress.advance(outcome.number, weights[outcome.number], frames=outcome.facts.get("frames", 0),
                             failed=outcome.status == "failed")
    failed += [("worker_died", f"{task.source}: sample {task.sample_id}: every worker that took it died; see {folder.ray_log}")
               for task in todo.values()]
    return sorted(failed)


def announce(work: Work, done: int, workers: int, console: Console) -> None:
    """One line on what there is to do."""
    ways = f" x {len(work.variants):,} corruptions" if len(work.variants) > 1 else ""
    there = f", {done:,} of {len(work.tasks):,} files are there" if done else ""
    say(console, f"{counted(len(work.clips), 'clip')}{ways} with {counted(workers, 'worker')} into {work.output}{there}")


def report(folder: OutputFolder, done: Sequence[FileOutcome], failed: Sequence[tuple[str, str]], wall_s: float,
           console: Console) -> None:
    """What came of it."""
    counts = Counter(message for _, message in failed)
    for message, count in list(counts.items())[:SHOWN_FAILURES]:
        say(console, f"not done{'' if count == 1 else f', {count:,} files'}: {message}")
    if len(counts) > SHOWN_FAILURES:
        say(console, f"and {len(counts) - SHOWN_FAILURES:,} more, listed in {folder.summary}")
    frames = sum(outcome.facts["frames"] for outcome in done)
    lost = f", {len(failed):,} could not be made" if failed else ""
    say(console, f"{counted(len(done), 'file')}, {counted(frames, 'frame')}{lost}; took {wall_s:.1f} s")
    say(console, stages_line(done))
    say(console, f"manifest: {folder.manifest}")


def stages_line(done: Sequence[FileOutcome]) -> str:
    """Where the time went, over all workers."""
    seconds = stage_seconds(done)
    return (f"decode {seconds['decode']:.1f} s, corrupt {seconds['corrupt']:.1f} s ({corrupt_share(seconds):.0%}), "
            f"encode {seconds['encode']:.1f} s; hashes {seconds['hash']:.1f} s")


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


def _size(file: Path) -> float:
    return float(file.stat().st_size) if file.is_file() else 0.0


def _more(count: int) -> str:
    return f" ({count:,} more)" if count > 0 else ""
