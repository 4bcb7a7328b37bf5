"""What surrounds a training loop: the run directory is claimed, resumed and left in a good state."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from squall.jobs.session import Session
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.checkpoints import seal
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, SquallError
from squall.platform.runs import append_line


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    record = {"problem": "?", "problem_type": "multiple choice", "data_type": "video", "options": ["A. a", "B. b"],
              "path": "a.mp4", "solution": "<answer>A</answer>"}
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path / "train.jsonl"


def open_session(manifest: Path, *overrides: str) -> Session:
    config = load_config(TGRPOJobConfig, "@demo", [
        f"data.train={manifest}", "evaluation.manifest=null", f"output={manifest.parent / 'runs'}", "name=a", *overrides])
    return Session(config, "train tgrpo", config.steps)


def checkpoint(session: Session, step: int) -> None:
    with session.run.checkpoint(step) as path:
        (path / "trainer").mkdir()
        (path / "trainer" / "index.json").write_text("{}")
        seal(path, {"step": step, "cursor": 10 * step})


def test_a_full_disk_is_one_error_and_the_last_good_checkpoint_stays(manifest: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SquallError, match="no room on the disk for x .*the last good checkpoint is step-000003"):
        with open_session(manifest) as session:
            checkpoint(session, 3)
            with session.run.checkpoint(4):
                raise OSError(errno.ENOSPC, "No space left on device", "x")
    assert [path.name for path in session.run.checkpoints.iterdir()] == ["step-000003"]
    assert "resume with: squall train tgrpo" in capsys.readouterr().out


def test_a_resumed_run_goes_on_where_its_checkpoint_was(manifest: Path) -> None:
    with open_session(manifest) as session:
        checkpoint(session, 2)
        for step in range(1, 5):
            append_line(session.run.metrics, json.dumps({"step": step, "dropped/zero_variance": 10}))
    with open_session(manifest, "resume=true", "steps=90") as again:
        assert (again.steps_done, again.resumed.state["cursor"]) == (2, 20)
        assert again.dropped["zero_variance"] == 20  # of steps 1 and 2: the others are done again
    events = [json.loads(line) for line in again.run.events.read_text().splitlines()]
    assert [(event["step"], event["steps_done_again"]) for event in events if event["kind"] == "resumed"] == [(2, 2)]


def test_resuming_needs_the_run_and_its_method(manifest: Path) -> None:
    with open_session(manifest):
        pass
    with pytest.raises(ConfigError, match="was begun with groups_per_step = 24, and now it is 12"):
        open_session(manifest, "resume=true", "groups_per_step=12")
    with pytest.raises(SquallError, match="no run directory of that name to resume"):
        open_session(manifest, "resume=true", "name=b")
    with pytest.raises(ConfigError, match="--resume needs the run"):
        open_session(manifest, "resume=true", "name=null")
    with pytest.raises(SquallError, match="already holds a run. Choose another name, or resume it"):
        open_session(manifest)


def test_the_first_signal_asks_to_stop_and_the_second_stops(manifest: Path) -> None:
    with open_session(manifest) as session, session.stops_well(None, dict):
        session.sampler = SimpleNamespace(take_changes=lambda: [])  # no worker was started
        os.kill(os.getpid(), signal.SIGTERM)
        session.check_stop()
        raise AssertionError("the request was not noticed")
    events = session.run.events.read_text()
    assert '"kind": "interrupted"' in events
    with pytest.raises(KeyboardInterrupt), open_session(manifest, "name=c") as session, session.stops_well(None, dict):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
