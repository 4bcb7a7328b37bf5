"""A trial between Tune and its job: one result at a time, ends, errors, a fork. The jobs here are functions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from squall.actors.trial import JobTrial, TrialSettings
from squall.platform.errors import SquallError
from squall.platform.hosting import current_host

Job = Callable[[Mapping[str, Any], str, Path | None], int]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial goes into its folder, in a process of its own; here the tests after it are to be where they were."""
    monkeypatch.chdir(tmp_path)


def make_trial(job: Job, folder: Path, name: str = "s-00000") -> JobTrial:
    class Named(JobTrial):
        trial_name = name

        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config, TrialSettings(job, "accuracy", str(folder), str(folder)))

    return Named({"rate": 0.1})


def log(step: int, **metrics: float) -> None:
    """What a job's session does at the end of a step."""
    current_host().sinks[0].write(step, metrics)
    current_host().settled()


def test_the_job_waits_for_tune_at_every_result_and_ends_with_the_last_one(tmp_path: Path) -> None:
    steps = []

    def job(values: Mapping[str, Any], name: str, start_from: Path | None) -> int:
        for step in range(4):
            steps.append(step)
            log(step, loss=1.0 - step, **({"accuracy": step / 4} if step % 2 else {}))
        return 0

    trial = make_trial(job, tmp_path)
    first = trial.step()
    assert (first["step"], first["accuracy"], first["loss"], steps) == (1, 0.25, 0.0, [0, 1])
    second, end = trial.step(), trial.step()
    assert (second["step"], second["accuracy"], steps) == (3, 0.75, [0, 1, 2, 3]) and "done" not in second
    assert end == second | {"done": True}


def test_a_stopped_trial_lets_its_job_end(tmp_path: Path) -> None:
    ended = threading.Event()

    def job(values: Mapping[str, Any], name: str, start_from: Path | None) -> int:
        step = 0
        while not current_host().stop.is_set():
            log(step := step + 1, accuracy=0.5)
        ended.set()
        return 0

    trial = make_trial(job, tmp_path)
    trial.step()
    trial.cleanup()
    assert ended.is_set()


@pytest.mark.parametrize(("metrics", "status", "message"), [
    ({"acuracy": 0.5}, 0, "never logged sweep.metric 'accuracy'. Did you mean 'acuracy'. It logs: acuracy, step"),
    ({"accuracy": 0.5}, 3, "the job ended with exit status 3"),
])
def test_what_went_wrong_is_told(tmp_path: Path, metrics: dict[str, float], status: int, message: str) -> None:
    def job(values: Mapping[str, Any], name: str, start_from: Path | None) -> int:
        log(1, **metrics)
        return status

    trial = make_trial(job, tmp_path)
    with pytest.raises((SquallError, RuntimeError), match=message):
        while "done" not in trial.step():
            pass


def test_a_fork_begins_a_run_of_its_own_from_the_others_checkpoint(tmp_path: Path) -> None:
    begun = []

    def job(values: Mapping[str, Any], name: str, start_from: Path | None) -> int:
        begun.append((values["rate"], name, start_from))
        log(2, accuracy=0.5)
        return 0

    good, bad = make_trial(job, tmp_path, "s-good"), make_trial(job, tmp_path, "s-bad")
    (tmp_path / "s-good" / "checkpoints" / "step-000002").mkdir(parents=True)
    (tmp_path / "s-bad").mkdir()
    good.step()
    for trial in (good, bad):
        note = tmp_path / trial.trial_name / "note"
        note.mkdir()
        trial.save_checkpoint(str(note))
    assert json.loads((tmp_path / "s-good" / "note" / "trial.json").read_text())["latest"]["step"] == 2
    forked = make_trial(job, tmp_path, "s-bad")
    forked.load_checkpoint(str(tmp_path / "s-good" / "note"))
    assert forked.step()["run"] == "s-bad-2"
    gone_on = make_trial(job, tmp_path, "s-bad")
    gone_on.load_checkpoint(str(tmp_path / "s-bad" / "note"))
    gone_on.step()
    checkpoint = tmp_path / "s-good" / "checkpoints" / "step-000002"
    assert begun == [(0.1, "s-good", None), (0.1, "s-bad-2", checkpoint), (0.1, "s-bad", None)]
    for trial in (good, forked, gone_on):
        trial.cleanup()
