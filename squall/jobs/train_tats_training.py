"""The trainings of a run: every arm with every seed, as many at a time as the cluster holds, gone on with where they stopped.

Each has a folder of its own with checkpoints, figures and logs, and at the end a model folder, rows of held-out clips and a
measure, whose file is written last and says that the training is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console

from squall.actors.masked_video_loop import MaskedVideoLearner
from squall.jobs.attack_files import write_rows
from squall.jobs.resume import find_resume_point
from squall.jobs.stopping import StopFlag, Stopped, stops_well
from squall.jobs.train_tats_config import Arm, marks
from squall.jobs.train_tats_plan import TatsPlan
from squall.jobs.train_tats_records import clip_rows, make_measure, mask_examples, summary, told
from squall.platform.checkpoints import seal
from squall.platform.config import validate
from squall.platform.hosting import current_host
from squall.platform.report.tats_masks import MaskExample, read_masks, write_masks
from squall.platform.runs import RunDirectory, append_line, filling, read_json, to_json, utc_now
from squall.platform.tats_card import MASKS_FOLDER, ROWS_FILE, TATS_CLIPS, TatsMeasure
from squall.platform.tracking import Tracker, read_metrics
from squall.platform.work_progress import WorkProgress

TRAININGS, MODELS = "trainings", "models"
"""Folders in the run directory: ARM/seed-S below each."""
MEASURE = "measure.json"
TOLD = 4
"""Lines that tell of a training while it runs, less one."""


class Learner(Protocol):
    """Who trains; `MaskedVideoLearner` says what each of these does."""

    def start(self) -> dict[str, Any]: ...
    def advance(self, until: int) -> dict[str, float]: ...
    def save(self, directory: Path) -> None: ...
    def finish(self, directory: Path) -> dict[str, Any]: ...
    def stop(self) -> None: ...


Launch = Callable[[Arm, int, Path, Path | None], Learner]
"""Who trains an arm with a seed, in a folder, from a checkpoint where there is one."""


class RayGroups:
    """Trains each in a Ray Train group of its own; clips lie in Ray's store once."""

    def __init__(self, plan: TatsPlan) -> None:
        self._config = plan.config
        self._sources, self._held = {seed: ray.put(source) for seed, source in plan.sources.items()}, ray.put(plan.held)

    def __call__(self, arm: Arm, seed: int, folder: Path, resume: Path | None) -> Learner:
        return MaskedVideoLearner(self._config.learner, arm.seeded(seed), self._config.steps, self._sources[seed], self._held,
                                  folder, resume=resume)


class TatsTrainings:
    """Trains and measures what is not done yet."""

    def __init__(self, plan: TatsPlan, folder: RunDirectory, tracker: Tracker, console: Console) -> None:
        self.plan, self._folder, self._tracker, self._console = plan, folder, tracker, console
        self._host, self._lock = current_host(), threading.Lock()
        self._alone = len(plan.trainings) == 1

    def run(self, launch: Launch, at_once: int) -> None:
        """Train all, seed by seed, so many at the same time.

        Raises:
            Stopped: it was asked to stop; every training that was under way has a checkpoint.
            SquallError: one failed; those beside it have checkpoints too.
        """
        todo = self.left
        if not todo:
            return
        weight = len(todo) * self.plan.config.steps
        with WorkProgress("trainings", len(todo), weight, console=self._console) as progress, \
                stops_well(progress.note, "the steps that are under way") as stop:
            pool = ThreadPoolExecutor(min(at_once, len(todo)), thread_name_prefix="training")
            try:
                _wait_for_all([pool.submit(_Training(self, arm, seed, number, progress, stop).run, launch)
                               for number, (arm, seed) in enumerate(todo)], stop)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if self.left:
            raise Stopped

    @property
    def left(self) -> list[tuple[Arm, int]]:
        """Trainings that are not measured, seed by seed."""
        return [(arm, seed) for arm, seed in self.plan.trainings if not (self.work(arm, seed).path / MEASURE).is_file()]

    def measures(self) -> list[TatsMeasure]:
        """Of all trainings, arm by arm."""
        paths = [self.work(arm, seed).path / MEASURE for arm, seed in self._by_arm]
        return [validate(TatsMeasure, read_json(path), str(path)) for path in paths]

    def rows(self) -> pa.Table:
        """Of all held-out clips, arm by arm."""
        return pa.concat_tables([pq.read_table(self.work(arm, seed).path / ROWS_FILE, schema=TATS_CLIPS)
                                 for arm, seed in self._by_arm])

    def masks(self) -> list[MaskExample]:
        """Examples of the first seed's samplers."""
        seed = self.plan.config.trained_seeds[0]
        return [example for arm in self.plan.arms for example in read_masks(self.work(arm, seed).path / MASKS_FOLDER)]

    def work(self, arm: Arm, seed: int) -> RunDirectory:
        """What a training leaves behind."""
        return RunDirectory(self._folder.path / TRAININGS / arm.name / f"seed-{seed}")

    def model(self, arm: Arm, seed: int) -> Path:
        """Where its model goes."""
        return self._folder.path / MODELS / arm.name / f"seed-{seed}"

    def note(self, arm: Arm, seed: int, step: int, row: Mapping[str, float]) -> None:
        """Record the means over some steps of a training. One that is alone has its figures under their plain names."""
        append_line(self.work(arm, seed).metrics, to_json({"step": step, "time": utc_now(), **row}))
        self.track(arm, seed, step, row)

    def track(self, arm: Arm, seed: int, step: int, figures: Mapping[str, float]) -> None:
        """Hand figures on, as `note`, without recording them."""
        prefix = "" if self._alone else f"{arm.name}.s{seed}/"
        with self._lock:
            self._tracker.log(step, {f"{prefix}{name}": value for name, value in figures.items()})

    def event(self, kind: str, **facts: Any) -> None:
        """Add a line to the run's events."""
        with self._lock:
            self._folder.event(kind, **facts)

    def settled(self) -> None:
        """All of some steps is recorded; a sweep may hold the training back here."""
        self._host.settled()

    @property
    def _by_arm(self) -> list[tuple[Arm, int]]:
        return [(arm, seed) for arm in self.plan.arms for seed in self.plan.config.trained_seeds]


class _Training:
    """One arm with one seed, from its last checkpoint to its measure."""

    def __init__(self, run: TatsTrainings, arm: Arm, seed: int, number: int, progress: WorkProgress, stop: StopFlag) -> None:
        self._run, self._arm, self._seed, self._number, self._stop = run, arm, seed, number, stop
        self._progress, self._config, self._work = progress, run.plan.config, run.work(arm, seed)

    def run(self, launch: Launch) -> None:
        """Called by a thread of its own."""
        if self._stop:
            return
        self._work.logs.mkdir(parents=True, exist_ok=True)
        self._work.sweep()
        point = find_resume_point(self._work)
        self._work.rewind(point.step)
        for note in point.notes if point.checkpoint is not None else ():
            self._say(note)
        learner = launch(self._arm, self._seed, self._work.path, point.checkpoint)
        try:
            device = learner.start()["device"]
            self._say(f"training on {device}" + (f" from step {point.step:,}" if point.step else ""))
            if self._train(learner, point.step):
                self._measure(learner)
        finally:
            learner.stop()

    def _train(self, learner: Learner, done: int) -> bool:
        """Returns whether it came to its end. Stopped, it has a checkpoint."""
        saved, every = done, self._config.checkpoint_every_steps or self._config.steps
        for mark in [mark for mark in marks(self._config, self._arm) if mark > done]:
            if self._stop:
                break
            row = learner.advance(mark)
            self._run.note(self._arm, self._seed, mark, row)
            self._tell(done, mark, row)
            done = mark
            if done // every > saved // every:
                saved = self._save(learner, done)
            self._run.settled()
        if done > saved:
            self._save(learner, done)
        return done == self._config.steps

    def _save(self, learner: Learner, step: int) -> int:
        with self._work.checkpoint(step) as path:
            learner.save(path)
            seal(path, {"step": step})
        return step

    def _measure(self, learner: Learner) -> None:
        facts = self._finish(learner)
        measured = facts["measured"]
        write_rows(self._work.path / ROWS_FILE, clip_rows(self._arm.name, self._seed, measured))
        write_masks(self._work.path / MASKS_FOLDER, mask_examples(self._arm, self._seed, measured))
        measure = make_measure(self._run.plan, self._arm, self._seed, facts, read_metrics(self._work.metrics))
        for line in facts["dropped"]:
            self._run.event("clip_dropped", arm=self._arm.name, seed=self._seed, message=line)
        self._run.event("trained", arm=self._arm.name, seed=self._seed, seconds=measure.seconds)
        self._work.write_json(MEASURE, measure.model_dump(mode="json"))
        self._run.track(self._arm, self._seed, measure.steps, summary(measured))
        self._run.settled()
        self._say(told(measure, len(facts["dropped"])))
        self._progress.advance(self._number, measure.steps)

    def _finish(self, learner: Learner) -> dict[str, Any]:
        """Write the model folder, in one piece."""
        with filling(self._run.model(self._arm, self._seed)) as unfinished:
            return learner.finish(unfinished)

    def _tell(self, before: int, step: int, row: Mapping[str, float]) -> None:
        steps = self._config.steps
        self._progress.running(self._number, step)
        if step * TOLD // steps > before * TOLD // steps and step < steps:
            motion = f", {row['motion/visible']:.1%} of visible tokens on motion" if "motion/visible" in row else ""
            self._say(f"step {step:,} of {steps:,}, loss {row['loss']:.4f}{motion}")

    def _say(self, text: str) -> None:
        self._progress.note(f"{self._arm.name}, seed {self._seed}: {text}")


def _wait_for_all(futures: Sequence[Future[None]], stop: StopFlag) -> None:
    """Where one fails the others are asked to stop, and its error is raised when they have."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failed = next((error for future in futures if future in done and (error := future.exception()) is not None), None)
    if failed is not None:
        stop.asked.set()
        wait(futures)
        raise failed
