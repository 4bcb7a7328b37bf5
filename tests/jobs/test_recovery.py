"""A job whose learner is lost goes on in its directory, as often as it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from squall.actors.worker_group import LearnerLost
from squall.jobs.recovery import recovering
from squall.jobs.resume import find_resume_point
from squall.jobs.run_session import RunSessionConfig
from squall.platform.runs import RunDirectory, append_line, read_lines


class Job:
    """Loses its learner in its first `losses` attempts, after two steps; from the second on it has a checkpoint."""

    def __init__(self, losses: int, checkpoint: bool) -> None:
        self.losses, self.checkpoint, self.attempts = losses, checkpoint, []

    def train(self, config: RunSessionConfig) -> str:
        run = RunDirectory.create(Path(config.output), "train", config.name, resume=config.resume)
        if config.resume and not self.checkpoint:
            run.rewind(find_resume_point(run).step)  # as every session does
        self.attempts.append((config.resume, config.name, len(read_lines(run.consumed))))
        for step in range(2):
            append_line(run.consumed, f'{{"step": {step}, "groups": {{}}}}')
        if self.checkpoint:
            (run.checkpoints / "step-000002").mkdir(parents=True, exist_ok=True)
        if len(self.attempts) <= self.losses:
            error = LearnerLost("learner failed while training on step 2: its node died")
            error.run = run.path
            raise error
        return "done"


def test_it_goes_on_from_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(losses=1, checkpoint=True)
    assert recovering(job.train, RunSessionConfig(output=str(tmp_path), name="a"), recoveries=2) == "done"
    assert job.attempts == [(False, "a", 0), (True, "a", 2)]
    printed = " ".join(capsys.readouterr().out.split())
    assert "its node died. Going on from step-000002 (1 of learner.recoveries 2 left)" in printed


def test_without_a_checkpoint_it_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(losses=1, checkpoint=False)
    assert recovering(job.train, RunSessionConfig(output=str(tmp_path)), recoveries=1) == "done"
    (_, _, first), (resume, name, again) = job.attempts
    assert (first, resume, again) == (0, True, 0) and name == next(tmp_path.iterdir()).name
    assert "the first step: no checkpoint was written yet" in " ".join(capsys.readouterr().out.split())


def test_it_ends_when_its_learner_is_lost_too_often(tmp_path: Path) -> None:
    job = Job(losses=9, checkpoint=True)
    with pytest.raises(LearnerLost, match="its node died"):
        recovering(job.train, RunSessionConfig(output=str(tmp_path), name="a"), recoveries=2)
    assert len(job.attempts) == 3
