"""What the commands that write corrupted files share: a cluster and a folder, and tasks that are worked through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.file_corruption import FileOutcome, corrupt_files
from squall.actors.logs import messages_of_ray
from squall.actors.resources import Demand, ResourcePlan
from squall.jobs.console import say
from squall.jobs.corrupt_config import WritingConfig
from squall.jobs.corrupt_output import OutputFolder, check_output, corrupt_share, explain_full_disk, stage_seconds
from squall.jobs.corrupt_plan import Work
from squall.platform.errors import FULL_DISK, SquallError
from squall.platform.work_progress import WorkProgress

SHOWN_FAILURES = 10
"""On the terminal; summary.json has all."""


@contextmanager
def writing(output: Path, config: WritingConfig) -> Iterator[tuple[OutputFolder, int]]:
    """The folder, claimed, and the number of workers that there are resources for, on a cluster.

    Raises:
        ConfigError: the folder cannot be written to.
        SquallError: the cluster is too small or cannot be reached, or the disk is full.
    """
    check_output(output, config)
    cluster = start_ray(config.ray_address)
    try:
        ResourcePlan((Demand("corruption worker", config.workers or 1, config.threads_per_clip),)).check(cluster)
        workers = config.workers or max(1, int(cluster.cpus // config.threads_per_clip))
        with OutputFolder.open(output, config) as folder, messages_of_ray(folder.note_ray):
            yield folder, workers
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise SquallError(f"no room on the disk for {error.filename or output} ({error.strerror}); what was finished "
                          "before is good. Make room, then go on with --resume") from error
    finally:
        stop_ray()


def work_through(work: Work, folder: OutputFolder, done: dict[int, FileOutcome], workers: int,
                 console: Console) -> dict[int, tuple[str, str]]:
    """Run the tasks that are not in `done` and put them there. Returns (reason, message) of those that failed."""
    todo = {task.number: task for task in work.tasks if task.number not in done}
    weights = {number: _size(Path(task.source)) for number, task in todo.items()}
    failed = {}
    with WorkProgress("files", len(todo), sum(weights.values()), console=console) as progress:
        for outcome in corrupt_files(list(todo.values()), workers, lambda i, share: progress.running(i, share * weights[i])):
            if outcome.status == "full_disk":
                raise explain_full_disk(outcome.message, len(done), folder.path)
            del todo[outcome.number]
            if outcome.status == "done":
                folder.record(work, outcome)
                done[outcome.number] = outcome
            else:
                failed[outcome.number] = outcome.reason, outcome.message
            progress.advance(outcome.number, weights[outcome.number], frames=outcome.facts.get("frames", 0),
                             failed=outcome.status == "failed")
    for number, task in todo.items():
        failed[number] = ("worker_died", f"{task.source}: sample {task.sample_id}: every worker that took it died; see "
                          f"{folder.ray_log}")
    return failed


def say_failures(folder: OutputFolder, failed: Sequence[tuple[str, str]], console: Console) -> None:
    """A line for each message, with how many files it is about; not for all where there are many."""
    counts = Counter(message for _, message in failed)
    for message, count in list(counts.items())[:SHOWN_FAILURES]:
        say(console, f"not done{'' if count == 1 else f', {count:,} files'}: {message}")
    if len(counts) > SHOWN_FAILURES:
        say(console, f"and {len(counts) - SHOWN_FAILURES:,} more, listed in {folder.summary}")


def stages_line(done: Sequence[FileOutcome]) -> str:
    """Where the time went, over all workers."""
    seconds = stage_seconds(done)
    return (f"decode {seconds['decode']:.1f} s, corrupt {seconds['corrupt']:.1f} s ({corrupt_share(seconds):.0%}), "
            f"encode {seconds['encode']:.1f} s; hashes {seconds['hash']:.1f} s")


def _size(file: Path) -> float:
    return float(file.stat().st_size) if file.is_file() else 0.0
