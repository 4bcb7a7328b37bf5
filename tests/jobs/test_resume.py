"""Resuming: the last whole checkpoint, the same configuration, and a disk that is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from squall.jobs.resume import check_same_run, explain_full_disk, find_resume_point, find_sampling_point, resume_command
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.checkpoints import seal
from squall.platform.config import dump_yaml, load_config
from squall.platform.errors import ConfigError, SquallError
from squall.platform.runs import RunDirectory, append_line


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory.create(tmp_path, "tgrpo", "a")
    for step in (2, 4):
        with made.checkpoint(step) as path:
            (path / "model.safetensors").write_bytes(b"weights")
            (path / "trainer").mkdir()
            (path / "trainer" / "index.json").write_text("{}")
            seal(path, {"step": step, "cursor": 10 * step})
    return made


def test_the_last_whole_checkpoint_is_taken_and_a_damaged_one_is_named(run: RunDirectory) -> None:
    point = find_resume_point(run)
    assert (point.step, point.state["cursor"], point.notes) == (4, 40, ())
    (run.checkpoints / "step-000004" / "model.safetensors").write_bytes(b"wei")
    point = find_resume_point(run)
    assert (point.step, point.state["cursor"]) == (2, 20)
    assert "step-000004: a damaged checkpoint: model.safetensors has 3 bytes in place of 7" in point.notes[0]
    assert (run.checkpoints / "step-000004").is_dir()


def test_a_run_without_a_checkpoint_starts_from_its_first_step(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "b")
    point = find_resume_point(run)
    assert point.step == 0 and point.checkpoint is None
    assert point.notes == ("no step was done yet: the run starts from its first step",)
    append_line(run.consumed, '{"step": 0, "groups": {"a@0": "trained", "b@0": "zero_variance"}}')
    sampled = find_sampling_point(run)
    assert (sampled.step, sampled.state) == (1, {"cursor": 2})
    point = find_resume_point(run)
    assert point.step == 0 and "1 steps were done and no checkpoint was written: the run starts from its" in point.notes[0]
    run.rewind(point.step)
    assert run.consumed.read_text() == ""


def test_a_run_whose_every_checkpoint_is_damaged_is_left_alone(run: RunDirectory) -> None:
    for step in (2, 4):
        (run.checkpoints / f"step-00000{step}" / "model.safetensors").unlink()
    with pytest.raises(SquallError, match="no checkpoint is whole.*step-000004.*Nothing was touched"):
        find_resume_point(run)


def test_a_damaged_checkpoint_is_put_aside_so_that_its_step_is_written_again(run: RunDirectory) -> None:
    (run.checkpoints / "step-000004" / "model.safetensors").unlink()
    run.rewind(find_resume_point(run).step)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["damaged-step-000004", "step-000002"]
    assert run.latest_checkpoint().name == "step-000002"


@pytest.mark.parametrize(("override", "message"), [
    ("tgrpo.kl_beta=0.7", "was begun with tgrpo.kl_beta = 0.1, and now it is 0.7"),
    ("model.path=./other", "was begun with model.path = '@embedded', and now it is './other'"),
    ("rewards.weights={accuracy: 1.0}", "was begun with rewards.weights"),
    ("seed=5", "was begun with seed = 0, and now it is 5"),
    ("learner.optimiser.learning_rate=1.0", "was begun with learner.optimiser.learning_rate = 4e-05"),
])
def test_another_configuration_is_refused(run: RunDirectory, override: str, message: str) -> None:
    run.write_config(dump_yaml(load_config(TGRPOJobConfig, "@demo")))
    with pytest.raises(ConfigError, match=message):
        check_same_run(load_config(TGRPOJobConfig, "@demo", [override]), run)


def test_where_how_fast_and_how_long_may_change(run: RunDirectory) -> None:
    run.write_config(dump_yaml(load_config(TGRPOJobConfig, "@demo")))
    assert not check_same_run(load_config(TGRPOJobConfig, "@demo", [
        "max_staleness=1", "resume=true", "steps=500", "learner.workers=2", "learner.optimiser.zero_stage=2",
        "engine.count=3"]), run)


def test_a_new_length_that_bends_the_schedule_is_told(run: RunDirectory) -> None:
    run.write_config(dump_yaml(load_config(TGRPOJobConfig, "@demo", ["steps=30", "learner.optimiser.schedule=cosine"])))
    config = load_config(TGRPOJobConfig, "@demo", ["steps=60", "learner.optimiser.schedule=cosine"])
    assert check_same_run(config, run) == ("steps was 30 and is 60: the cosine learning rate follows the new length",)


def test_the_command_to_resume_can_be_pasted(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent)
    assert resume_command("train tgrpo", run) == "squall train tgrpo a/config.yaml --resume"


def test_a_full_disk_names_the_last_good_checkpoint(run: RunDirectory) -> None:
    error = explain_full_disk(OSError(errno.ENOSPC, "No space left on device", "runs/a/x"), run)
    assert str(error) == ("no room on the disk for runs/a/x (No space left on device); the last good checkpoint is "
                          "step-000004. Make room, then resume the run")
