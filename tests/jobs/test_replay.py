"""Replay: which checkpoint a step starts from, and that a number which differs is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from squall.jobs.replay import print_comparison, recorded_step, starting_point
from squall.platform.errors import SquallError
from squall.platform.runs import RunDirectory, append_line


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory.create(tmp_path, "tgrpo", "a")
    for step in (1, 2, 3):
        append_line(made.metrics, json.dumps({"step": step, "loss": 0.1 * step}))
    (made.checkpoints / "step-000002").mkdir(parents=True)
    return made


def test_a_step_starts_from_the_checkpoint_before_it(run: RunDirectory) -> None:
    assert starting_point(run, 1) is None
    with pytest.raises(SquallError, match="step 2 cannot be done again; steps that can: 1, 3"):
        starting_point(run, 2)
    with pytest.raises(SquallError, match="step-000002: a damaged checkpoint"):
        starting_point(run, 3)


def test_only_recorded_steps_can_be_compared(run: RunDirectory) -> None:
    assert recorded_step(run, 2)["loss"] == 0.2
    with pytest.raises(SquallError, match="step 4 is not recorded; steps 1 to 3 are"):
        recorded_step(run, 4)


def test_one_bit_makes_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_comparison(Console(), {"loss": 0.1, "kl": 0.2}, {"loss": 0.1, "kl": 0.2})
    assert not print_comparison(Console(), {"loss": 0.1, "kl": 0.2}, {"loss": 0.1, "kl": 0.2 + 1e-16 * 2})
    assert capsys.readouterr().out.count("differs") == 1
