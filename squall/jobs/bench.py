"""`squall bench build MANIFEST OUTPUT`: a benchmark of corrupted video from any manifest, in the manner of PVRBench.

Every clip is written clean and under one corruption of each family, drawn once from the seed and the clip's path. A question
whose clip fails in one condition is left out of all, so that the conditions stay paired.
"""

from __future__ import annotations

import time

from rich.console import Console

from squall.jobs.bench_output import finish_bench
from squall.jobs.bench_plan import BenchBuildConfig, BenchWork, plan_bench
from squall.jobs.console import counted, say
from squall.jobs.corrupt_output import OutputFolder
from squall.jobs.corrupt_work import say_failures, stages_line, work_through, writing
from squall.platform.bench_card import CARD_FILE
from squall.platform.streaming import hash_file

__all__ = ["BenchBuildConfig", "run"]


def run(config: BenchBuildConfig) -> int:
    """Build it. Returns 0 when every question is in it, 1 when some had to be left out."""
    bench, console = plan_bench(config), Console()
    with writing(bench.work.output, config) as (folder, workers):
        return build(bench, config, folder, workers, console)


def build(bench: BenchWork, config: BenchBuildConfig, folder: OutputFolder, workers: int, console: Console) -> int:
    """Make every file that is not there yet, then manifests and card. Returns the exit status.

    Raises:
        SquallError: the disk is full, or no question is whole.
    """
    started, work = time.monotonic(), bench.work
    (folder.path / CARD_FILE).unlink(missing_ok=True)  # until it is whole again
    done = folder.outcomes(work)
    there = f", {len(done):,} of {len(work.tasks):,} files are there" if done else ""
    say(console, f"{counted(len(bench.questions), 'question')}, {counted(len(work.clips), 'clip')} x "
                 f"{len(work.variants):,} conditions with {counted(workers, 'worker')} into {work.output}{there}")
    try:
        failed = work_through(work, folder, done, workers, console)
    except KeyboardInterrupt:
        say(console, f"stopped: {counted(len(done), 'file')} of {len(work.tasks):,} are finished; go on with --resume")
        raise
    failures = [(one.reason, one.message) for one in work.rejected] + sorted(failed.values())
    say_failures(folder, failures, console)
    card = finish_bench(bench, config, folder, done, failed)
    wall_s = time.monotonic() - started
    folder.summarise(done, failures, wall_s, workers)
    lost = f"; {counted(len(card.lost), 'question')} left out of all conditions" if card.lost else ""
    say(console, f"{counted(card.questions, 'question')} about {counted(card.clips, 'clip')} in {len(card.conditions):,} "
                 f"conditions{lost}; took {wall_s:.1f} s")
    say(console, stages_line(list(done.values())))
    say(console, f"card: {folder.path / CARD_FILE}, sha256 {hash_file(folder.path / CARD_FILE)}")
    return 1 if card.lost else 0
