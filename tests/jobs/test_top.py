"""The terminal view of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squall.jobs import top
from squall.jobs.top import TopConfig, spark
from squall.platform.live import LiveFile
from squall.platform.runs import RunDirectory, append_line


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory.create(tmp_path, "tgrpo", "a")
    made.write_config("job: train tgrpo\nsteps: 8\n")
    made.event("started")
    for step in range(1, 5):
        append_line(made.metrics, json.dumps({
            "step": step, "time": "2026-01-01T00:00:00.000Z", "seconds_per_step": 4.0, "accuracy/clean": 0.8 + 0.01 * step,
            "time/rollout": 3.0, "time/learn": 1.0, "idle/trainer": 0.75, "idle/rollout": 0.25, "gap/fog": 0.2,
            "corruption_ms/fog": 1.5, "dropped/zero_variance": 3, "retried/engine_died": 1}))
    return made


def test_it_shows_where_a_run_stands(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    live = LiveFile(run.live)
    live.phase("learn")
    live.state("engine-0", "restarting")
    assert top.run(TopConfig(run=run.path)) == 0
    shown = capsys.readouterr().out
    for text in ("train tgrpo a", "learn", "step 4 of 8", "left 0:16", "clean", "0.825", "engine-0 (restarting)", "fog",
                 "+0.200", "zero_variance 12", "engine_died 4", "max_staleness=1"):
        assert text in shown, text


def test_a_run_that_has_done_nothing_yet_is_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.run(TopConfig(run=RunDirectory.create(tmp_path, "tgrpo", "b").path)) == 0
    assert "step 0 of ?" in capsys.readouterr().out


def test_a_line_of_blocks_spans_from_the_lowest_to_the_highest() -> None:
    assert spark([0.0, 0.5, 1.0], 10) == "▁▅█" and spark([2.0, 2.0], 10) == "▄▄"
    assert len(spark([float(i) for i in range(1000)], 40)) <= 40
