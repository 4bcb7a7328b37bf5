from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from squall.platform.errors import SquallError
from squall.platform.runs import RunDirectory, append_line, checkpoint_step, provenance, read_lines, to_json


def test_default_name_carries_job_and_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo")
    job, day, clock = run.name.split("-")
    assert (job, len(day), len(clock)) == ("tgrpo", 8, 6)
    assert run.logs.is_dir()


def test_runs_that_start_in_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    names = [RunDirectory.create(tmp_path, "tgrpo").name for _ in range(5)]
    assert len(set(names)) == 5


@pytest.mark.parametrize("name", [None, "a"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, name: str | None) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SquallError, match="file: cannot be written .Not a directory.; give another folder: output=FOLDER"):
        RunDirectory.create(file, "tgrpo", name)


def test_used_directory_is_refused_unless_resumed(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "tgrpo", "a").write_config("seed: 1\n")
    with pytest.raises(SquallError, match="already holds a run") as refusal:
        RunDirectory.create(tmp_path, "tgrpo", "a")
    assert "\n" not in str(refusal.value)
    assert RunDirectory.create(tmp_path, "tgrpo", "a", resume=True).config.read_text() == "seed: 1\n"


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SquallError, match="no run directory of that name"):
        RunDirectory.create(tmp_path, "tgrpo", "a", resume=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "."])
def test_name_outside_root_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SquallError, match="single folder name"):
        RunDirectory.create(tmp_path, "tgrpo", name)


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDirectory.create(tmp_path, "tgrpo", "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path.stat().st_uid + 1))
    with pytest.raises(SquallError, match="belongs to user id"):
        RunDirectory.create(tmp_path, "tgrpo", "theirs", resume=True)
    with pytest.raises(SquallError, match="belongs to user id"):
        RunDirectory.open(tmp_path / "theirs")


def test_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    with run.checkpoint(9) as folder:
        (folder / "weights").write_text("nine")
        assert run.latest_checkpoint() is None
    with pytest.raises(RuntimeError), run.checkpoint(10) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000009"]
    assert (run.latest_checkpoint() / "weights").read_text() == "nine"
    assert [event["kind"] for event in read_lines(run.events)] == ["checkpoint"]


def test_latest_checkpoint_is_by_number_and_can_be_replaced(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    for step, text in ((2, "two"), (1_000_000, "old"), (1_000_000, "new"), (999_999, "less")):
        with run.checkpoint(step) as folder:
            (folder / "weights").write_text(text)
    latest = run.latest_checkpoint()
    assert (checkpoint_step(latest), (latest / "weights").read_text()) == (1_000_000, "new")
    assert len(list(run.checkpoints.iterdir())) == 3


def test_sweep_clears_an_unfinished_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    (run.checkpoints / ".step-000004.new").mkdir(parents=True)
    RunDirectory.create(tmp_path, "tgrpo", "a", resume=True).sweep()
    assert list(run.checkpoints.iterdir()) == []


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    first = run.lock()
    code = ("import sys; from pathlib import Path; from squall.platform.runs import RunDirectory\n"
            "RunDirectory(Path(sys.argv[1])).lock()")
    other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
    assert f"a live run is writing here (process {os.getpid()} on " in other.stderr
    first.close()
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True).returncode == 0


def test_rewinding_forgets_what_came_after_and_nothing_else(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    for step in range(5):
        append_line(run.metrics, json.dumps({"step": step, "loss": 0.1}))
        append_line(run.consumed, json.dumps({"step": step, "groups": {f"g{step}": "trained"}}))
        run.rollouts.mkdir(exist_ok=True)
        (run.rollouts / f"step-{step:06d}.parquet").touch()
    append_line(run.metrics, '{"step": 9, "lo')
    assert run.rewind(2) == 2
    assert [row["step"] for row in read_lines(run.metrics)] == [0, 1, 2]
    assert [row["step"] for row in read_lines(run.consumed)] == [0, 1]
    assert sorted(path.name for path in run.rollouts.iterdir()) == ["step-000000.parquet", "step-000001.parquet"]


def test_json_is_strict_and_takes_numpy(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    value = {"n": np.int64(3), "ci95": np.array([0.5, np.nan]), "inf": float("inf"), "path": Path("a"), 4: True}
    path = run.write_json("results.json", value)
    assert json.loads(path.read_text()) == {"n": 3, "ci95": [0.5, None], "inf": None, "path": "a", "4": True}
    assert sorted(p.name for p in run.path.iterdir()) == ["logs", "results.json"]


def test_events_carry_utc_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "a")
    run.event("engine_restarted", engine=1)
    row = read_lines(run.events)[0]
    assert row["time"].endswith("Z")
    assert (row["kind"], row["engine"]) == ("engine_restarted", 1)


def test_line_cut_short_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_line(path, to_json({"step": 1}))
    path.write_bytes(path.read_bytes() + b'{"step": 2, "lo')
    append_line(path, to_json({"step": 3}))
    assert [row["step"] for row in read_lines(path)] == [1, 3]


def test_provenance_names_versions_command_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/squall", "demo", "name=two words"])
    value = provenance(seed=7)
    assert value["command"] == "squall demo 'name=two words'"
    assert value["seed"] == 7 and value["packages"]["numpy"] == np.__version__
    assert 1 <= value["usable_cpus"] <= value["host_cpus"]
