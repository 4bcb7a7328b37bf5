"""The whole job: video files in, a trained policy and a report out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from processes import Command

from squall.cli import main
from squall.jobs import report, run_session, sft, tgrpo
from squall.jobs.heldout import EvaluationConfig
from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import SquallError
from squall.platform.models import load_policy
from squall.platform.runs import read_lines
from squall.platform.store import RolloutStore
from squall.platform.tracking import read_metrics


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embedded")
    made = build_dataset(EmbeddedDataConfig(directory=folder, train_clips=60, validation_clips=4, test_clips=24))
    records = [json.loads(line) for line in made["train"].read_text().splitlines()]
    for record in records[3::6]:
        path = folder / record["path"]
        path.write_bytes(path.read_bytes()[:200])
    for record in records[5::6]:
        record["problem"] = "How does the camera move? " * 60
    made["train"].write_text("\n".join(json.dumps(record) for record in records))
    return made


@pytest.mark.cluster
def test_a_run_trains_and_leaves_everything_behind(manifests: dict[str, Path], ray_cluster, tmp_path: Path) -> None:
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [
        f"data.train={manifests['train']}", f"evaluation.manifest={manifests['test']}", f"output={tmp_path}", "name=run",
        "steps=2", "groups_per_step=4", "max_sampled_groups=60", "evaluation.questions=24", "learner.workers=2",
        "learner.optimiser.zero_stage=2"])
    assert tgrpo.run(config) == 0

    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["n"] == 24 and set(results["clean"]) >= {"before", "after", "diff", "ci95"}
    assert results["dropped"]["decode_error"] > 0 and results["dropped"]["too_long"] > 0
    low, high = results["corrupted"]["ci95"]
    assert low <= results["corrupted"]["diff"] <= high
    metrics = {row["step"]: row for row in read_metrics(run / "metrics.jsonl")}
    assert metrics[1]["groups/trained"] == 4 and metrics[1]["mismatch/abs_logprob"] < 1e-4
    assert metrics[1]["contrast/effective"] >= 0
    groups = RolloutStore(run / "rollouts").read(1)
    assert {rollout.weight_version for group in groups for rollout in group.scored.sampled.rollouts} == {1}
    assert all(len(group.scored.sampled.rollouts) == 4 + 8 + 4 for group in groups)
    assert load_policy(str(run / "checkpoints" / "step-000002")).num_parameters() > 800_000
    assert began(run, "learner-0.log", "--- process") < began(run, "driver.log", "| learner |"), "it loads beside the engines"
    held = RolloutStore(run / "heldout")
    assert held.steps() == [0, 2] and [len(held.read(step)) for step in (0, 2)] == [24, 24]
    page = (run / "report.html").read_text()
    assert "Held-out clips and answers" in page and "not exactly the pixels" not in page and "cannot be shown" not in page
    (run / "report.html").unlink()
    assert report.run(report.ReportConfig(runs=(run,))) == 0 and (run / "report.html").read_text() == page


def began(run: Path, log: str, marker: str) -> str:
    """Time, in UTC, of the first line of a log with a marker."""
    line = next(line for line in (run / "logs" / log).read_text().splitlines() if marker in line)
    return re.search(r"\d{4}-\d\d-\d\dT[\d:.]+", line)[0]


@pytest.mark.cluster
def test_an_engine_that_cannot_start_ends_the_run_and_the_learner_that_loads(
        manifests: dict[str, Path], ray_cluster: object, tmp_path: Path) -> None:
    command = Command(tmp_path, "train", "tgrpo", "@demo", f"data.train={manifests['train']}", "evaluation.manifest=null",
                      "name=deaf", "engine.max_model_len=9999999")
    assert command.wait() == 2
    assert command.printed.count("error: ") == 1 and "Traceback" not in command.printed, command.printed
    assert re.search(r"error: engine-0 could not start: Value error, User-specified max_model_len \(9999999\)", command.printed)
    assert "logs/engine-0.log" in command.printed and (tmp_path / "runs" / "deaf" / "logs" / "learner-0.log").is_file()
    deadline = time.monotonic() + 60
    while ray.available_resources()["CPU"] < ray.cluster_resources()["CPU"] - engines_of_tests():
        assert time.monotonic() < deadline, "it holds what it had reserved"
        time.sleep(0.5)


def engines_of_tests() -> int:
    """CPUs that the engine of the test run holds, where one was asked for before."""
    try:
        ray.get_actor("engine-0", namespace="squall-tests")
    except ValueError:
        return 0
    return 1


@pytest.mark.parametrize(("overrides", "message"), [
    (["group_per_step=4"], "unknown key 'group_per_step'. Did you mean 'groups_per_step'"),
    (["learner.workers=25"], "groups_per_step 24 do not go round learner.workers 25"),
    (["data.train=missing.jsonl"], "data.train = missing.jsonl: no such manifest"),
    (["corruption.kinds=[rian]"], "unknown corruption kind 'rian'. Allowed: "),
    (["model.path=./nowhere"], "no such directory"),
])
def test_bad_input_is_one_line_before_any_actor_starts(
        overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
        ) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_session, "start_ray", lambda *_, **__: pytest.fail("Ray was started"))
    with pytest.raises(SystemExit) as ended:
        main(["train", "tgrpo", "@demo", *overrides])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed and len(printed.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.cluster
def test_a_plan_that_the_cluster_cannot_hold_is_refused(
        manifests: dict[str, Path], ray_cluster: object, tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run([sys.executable, "-m", "squall", "train", "tgrpo", "@demo", f"data.train={manifests['train']}",
                           f"evaluation.manifest={manifests['test']}", "engine.count=400", "placement.timeout_s=2"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert "waiting up to 2 s (placement.timeout_s) for nodes: plan needs" in done.stdout
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "plan needs" in done.stderr and "lower the count of 'engine' or join a larger cluster" in done.stderr


@pytest.mark.cluster
def test_a_run_that_is_refused_is_shown_no_longer(manifests: dict[str, Path], ray_cluster: object, tmp_path: Path) -> None:
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [
        f"data.train={manifests['train']}", "evaluation.manifest=null", f"output={tmp_path}", "engine.count=400",
        "placement.timeout_s=1"])
    with pytest.raises(SquallError, match="plan needs"):
        tgrpo.run(config)
    assert [thread.name for thread in threading.enumerate() if thread.name == "gauges"] == []


@pytest.mark.cluster
def test_supervised_steps_from_a_relative_model_path(manifests: dict[str, Path], ray_cluster, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch, policy_dir: Path) -> None:
    shutil.copytree(policy_dir, tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    config = load_config(sft.SFTJobConfig, "@sft", [
        "model.path=policy", f"data.train={manifests['train']}", "steps=3", "samples_per_step=16", "name=run",
        "learner.optimiser.learning_rate=1e-4"])
    checkpoint = sft.train(config)
    rows = read_metrics(tmp_path / "runs" / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["loss"] < 1.0 for row in rows)
    assert load_policy(str(checkpoint)).num_parameters() > 800_000
    asked = EvaluationConfig(manifest=manifests["test"], questions=8, every_steps=1, max_tokens=16)
    fork = config.model_copy(update={"name": "fork", "steps": 5, "start_from": checkpoint, "evaluation": asked})
    assert load_policy(str(sft.train(fork))).num_parameters() > 800_000
    rows = read_metrics(tmp_path / "runs" / "fork" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [4, 5]
    assert [row["step"] for row in rows if "heldout/corrupted" in row] == [3, 4, 5]
    held = RolloutStore(tmp_path / "runs" / "fork" / "heldout")
    versions = {step: {rollout.weight_version for group in held.read(step) for rollout in group.scored.sampled.rollouts}
                for step in held.steps()}
    assert versions == {3: {3}, 4: {4}, 5: {5}}
    first, second = ({name for row in read_lines(tmp_path / "runs" / run / "consumed.jsonl") for name in row["groups"]}
                     for run in ("run", "fork"))
    assert len(second) >= 32 and not first & second  # files that cannot be read are consumed too


def test_a_model_directory_without_a_processor_is_refused(
        tmp_path: Path, manifests: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
        ) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", "tgrpo", "@demo", f"data.train={manifests['train']}", "model.path=./model"])
    assert ended.value.code == 2 and "a model directory without a processor" in capsys.readouterr().err
