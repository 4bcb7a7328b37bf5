"""Trainings that a host stops go on from their checkpoints with the same figures; where one fails the others are kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_tats import TIMED, settings

from squall.actors.masked_video_loop import Advance, Finish, MaskedVideoWorker
from squall.actors.rollout_buffer import Save
from squall.actors.run_files import RunFiles
from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.gradients import PlainDescent
from squall.jobs.stopping import Stopped
from squall.jobs.train_tats_config import Arm
from squall.jobs.train_tats_plan import TatsPlan, prepare
from squall.jobs.train_tats_training import Launch, TatsTrainings
from squall.platform.errors import SquallError
from squall.platform.hosting import Host, hosted
from squall.platform.runs import RunDirectory
from squall.platform.tracking import Tracker, read_metrics

MAKING = threading.Lock()
"""New weights come from torch's global generator, which the threads of a process share; Ray's workers are processes."""


class Here:
    """What a Ray Train worker does, in this process."""

    def __init__(self, plan: TatsPlan, arm: Arm, seed: int, resume: Path | None, fails: bool = False) -> None:
        with MAKING:
            self.worker = MaskedVideoWorker(arm.seeded(seed), plan.config.steps, plan.sources[seed], lambda: plan.held, Share(),
                                            torch.device("cpu"), PlainDescent, RunFiles.of(Path(), served=False), resume)
        self.fails = fails

    def start(self) -> dict[str, Any]:
        return self.worker.facts()

    def advance(self, until: int) -> dict[str, float]:
        if self.fails:
            raise SquallError("the length of the gradient is nan")
        return self.worker.obey(Advance(until))

    def save(self, directory: Path) -> None:
        self.worker.obey(Save(str(directory)))

    def finish(self, directory: Path) -> dict[str, Any]:
        return self.worker.obey(Finish(str(directory)))

    def stop(self) -> None:
        """Nothing was started."""


class StopsAfter:
    """A host that asks to stop after so many rows."""

    def __init__(self, rows: int) -> None:
        self.left, self.names, self.stop = rows, set(), threading.Event()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.left -= 1
        self.names |= metrics.keys()
        if not self.left:
            self.stop.set()

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def plan() -> TatsPlan:
    return prepare(settings("arms={tats: {}}", "steps=12", "checkpoint_every_steps=0"))


def launch_of(plan: TatsPlan, failing: str = "") -> Launch:
    return lambda arm, seed, folder, resume: Here(plan, arm, seed, resume, fails=arm.name == failing)


def train(plan: TatsPlan, path: Path, stops: StopsAfter, at_once: int = 1, failing: str = "") -> TatsTrainings:
    path.mkdir(exist_ok=True)
    with hosted(Host(sinks=(stops,), stop=stops.stop)):
        trainings = TatsTrainings(plan, RunDirectory(path), Tracker([stops]), Console(quiet=True))
        trainings.run(launch_of(plan, failing), at_once)
    return trainings


def figures(trainings: TatsTrainings, arm: str = "tats") -> list[dict[str, Any]]:
    work = next(trainings.work(each, seed) for each, seed in trainings.plan.trainings if each.name == arm)
    return [{name: value for name, value in row.items() if name not in TIMED} for row in read_metrics(work.metrics)]


def test_a_training_that_is_stopped_goes_on_with_the_same_figures(plan: TatsPlan, tmp_path: Path) -> None:
    whole = train(plan, tmp_path / "whole", StopsAfter(99))
    stops = StopsAfter(2)
    with pytest.raises(Stopped):
        train(plan, tmp_path / "stopped", stops)
    checkpoints = sorted(path.name for path in (tmp_path / "stopped/trainings/tats/seed-2/checkpoints").iterdir())
    assert checkpoints == ["step-000005"] and not (tmp_path / "stopped/models").exists()
    assert {"loss", "motion/visible", "memory/peak_bytes"} <= stops.names, "plain names, which sweeps take"
    again = train(plan, tmp_path / "stopped", StopsAfter(99))
    assert figures(again) == figures(whole) and [row["step"] for row in figures(whole)] == [2, 5, 7, 9, 11, 12]
    first, second = (each.measures()[0] for each in (whole, again))
    timed = {"seconds", "tokens_per_second", "peak_memory_bytes"}
    assert first.model_dump(exclude=timed) == second.model_dump(exclude=timed)
    assert again.rows().equals(whole.rows())
    train(plan, tmp_path / "stopped", (told := StopsAfter(1)))
    assert told.left == 1, "what is measured is not trained again"


def test_where_one_fails_the_others_have_checkpoints(tmp_path: Path) -> None:
    both = prepare(settings("steps=12", "checkpoint_every_steps=0"))
    with pytest.raises(SquallError, match="the length of the gradient is nan"):
        train(both, tmp_path, StopsAfter(99), at_once=2, failing="random")
    work = tmp_path / "trainings" / "tats" / "seed-2"
    assert list(work.glob("checkpoints/step-*")) or not (work / "metrics.jsonl").exists()
    ended = train(both, tmp_path, StopsAfter(99), at_once=2)
    assert [each.arm for each in ended.measures()] == ["tats", "random"]
    assert figures(ended) == figures(train(both, tmp_path / "undisturbed", StopsAfter(99)))
