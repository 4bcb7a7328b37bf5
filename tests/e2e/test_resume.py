"""A run whose workers are killed in flight, and which stops and resumes, consumes and learns what an undisturbed one does."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import ray
from processes import Command

from squall.actors.sampling import GroupSampler
from squall.algorithms.tgrpo import group_advantages
from squall.jobs import replay, tgrpo
from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.records import TrainGroup
from squall.platform.store import RolloutStore
from squall.platform.tracking import read_metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
STEPS = 6


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("embedded")
    made = build_dataset(EmbeddedDataConfig(directory=folder, train_clips=60, validation_clips=4, test_clips=4))
    return [f"data.train={made['train']}", "evaluation.manifest=null", f"output={folder / 'runs'}", f"steps={STEPS}",
            "groups_per_step=4", "max_sampled_groups=60", "checkpoint_every_steps=2",
            "rewards.weights={accuracy: 1.0, format: 0.2, consistency: 0.2, kl_consistency: 0.3}",
            "rewards.kl_consistency.loss_weight=0.1",
            "difficulty={reading: answers, memory: {recheck_every_steps: 1, max_rechecks: 2}}"]


@pytest.fixture(scope="module")
def whole(overrides: list[str], ray_cluster: object) -> Path:
    """The run directory of an undisturbed run."""
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [*overrides, "name=whole"])
    assert tgrpo.run(config) == 0
    return Path(config.output) / "whole"


def consumed(run: Path) -> Counter[tuple[int, str, str]]:
    rows = [json.loads(line) for line in (run / "consumed.jsonl").read_text().splitlines()]
    return Counter((row["step"], group, outcome) for row in rows for group, outcome in row["groups"].items())


def learned_rewards_of(group: TrainGroup) -> list[float]:
    return [row["kl_consistency"] for row in group.scored.rewards if "kl_consistency" in row]


def learned_rewards(run: Path) -> list[float]:
    store = RolloutStore(run / "rollouts")
    return [value for step in range(STEPS) for group in store.read(step) for value in learned_rewards_of(group)]


def state(run: Path, checkpoint: str) -> dict:
    return json.loads((run / "checkpoints" / checkpoint / "state.json").read_text())


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


def wait_for(condition, command: Command, what: str) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert command.poll() is None, f"the run ended before {what}:\n{command.printed}"
        assert time.monotonic() < deadline, f"no {what}:\n{command.printed}"
        time.sleep(0.05)


def kill_at_work(role: str, command: Command) -> None:
    """SIGKILL a worker's process while the run's engine is answering."""
    engine, worker = (ray.get_actor(f"{name}-0", namespace="squall-hurt") for name in ("engine", role))

    def busy() -> bool:
        try:
            return ray.get(engine.stats.remote(), timeout=60)["active_requests"] > 0
        except ray.exceptions.RayError:  # killed before, and not back yet
            return False

    wait_for(busy, command, "request in flight")
    os.kill(ray.get(worker.ping.remote(), timeout=60), signal.SIGKILL)


def test_kills_and_a_resume_change_neither_what_is_consumed_nor_what_is_learned(overrides: list[str], whole: Path,
                                                                              tmp_path: Path) -> None:
    run = whole.parent / "hurt"
    words = ["train", "tgrpo", "@demo", *overrides, "name=hurt"]
    command = Command(tmp_path, *words)
    wait_for(lambda: (run / "consumed.jsonl").exists(), command, "first step")
    kill_at_work("reward", command)
    kill_at_work("engine", command)
    refused = Command(tmp_path, *words, "--resume")
    assert refused.wait() == 2 and "a live run is writing here" in refused.printed
    wait_for((run / "checkpoints" / "step-000002").is_dir, command, "checkpoint")
    wait_for(lambda: "reward-0" in (run / "events.jsonl").read_text(), command, "word of the reward worker's death")
    command.signal(signal.SIGINT)
    assert command.wait(120) == 0, command.printed
    stopped = state(run, max(path.name for path in (run / "checkpoints").glob("step-*")))
    assert any(isinstance(item, str) for item in stopped["ahead"]), "it stopped with difficult questions to look at again"
    going_on = re.search(r"resume with: squall train tgrpo (\S+) --resume", command.printed)
    assert going_on and "stopped after step" in command.printed

    resumed = Command(tmp_path, "train", "tgrpo", going_on[1], "--resume")
    assert resumed.wait() == 0, resumed.printed
    assert consumed(run) == consumed(whole)
    assert max(Counter(group for _, group, _ in consumed(run)).values()) == 1
    last = f"step-{STEPS:06d}"
    assert state(run, last)["memory"] == state(whole, last)["memory"] and state(whole, last)["memory"]
    assert any(group.endswith("~2") for _, group, _ in consumed(whole)), "a question was looked at twice"
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3, abs=1e-6)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    died = {event["worker"] for event in events if event["kind"] == "worker" and event["after"] == "dead"}
    assert died == {"engine-0", "reward-0"}
    retried = Counter()
    for row in read_metrics(run / "metrics.jsonl"):
        retried.update({name: value for name, value in row.items() if name.startswith("retried/")})
    assert sum(retried.values()) > 0
    store = RolloutStore(run / "rollouts")
    kept = [group.scored for step in range(STEPS) for group in store.read(step)]
    kept += [group for step in range(STEPS) for _, group in store.read_dropped(step)]  # what was tried again may be of no use
    attempts = {rollout.attempt_id.split("#")[1] for group in kept for rollout in group.sampled.rollouts}
    assert attempts > {"0"}
    assert "raylet" not in command.printed + resumed.printed
    assert "A worker died or was killed" in (run / "logs" / "ray.log").read_text()
    assert (run / "logs" / "engine-0.log").read_text().count("--- process ") >= 3  # begun, after the kill, resumed


def test_learning_alone_from_stored_rollouts_gives_the_same_losses(overrides: list[str], whole: Path) -> None:
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [*overrides, "name=again", f"learn_only={whole}",
                                                        "learner.workers=2", "learner.cpus=0.4"])
    assert tgrpo.run(config) == 0
    again = Path(config.output) / "again"
    assert losses(again) == pytest.approx(losses(whole), rel=1e-4, abs=1e-7)
    assert consumed(again) == consumed(whole)
    assert learned_rewards(again) == pytest.approx(learned_rewards(whole), abs=1e-4)


def test_the_learners_reward_and_the_advantages_with_it_are_stored(whole: Path) -> None:
    job = load_config(tgrpo.TGRPOJobConfig, whole / "config.yaml")
    for row in read_metrics(whole / "metrics.jsonl"):
        groups = RolloutStore(whole / "rollouts").read(row["step"] - 1)
        rewards = [value for group in groups for value in learned_rewards_of(group)]
        assert row["kl_consistency/mean"] == pytest.approx(fmean(rewards)) and 0.0 < row["kl_consistency/mean"] < 1.0
        assert row["kl_consistency/kl"] == pytest.approx(fmean(-math.log(value) / 3.0 for value in rewards), abs=1e-9)
        for group in groups:
            assert len(learned_rewards_of(group)) == sum(advantage is not None for advantage in group.advantages) == 12
            assert group.advantages == group_advantages(group.scored, job.tgrpo, job.rewards.weights).advantages


def test_one_step_again_is_equal_bit_by_bit(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.run(replay.ReplayConfig(run=whole, step=3)) == 0
    printed = capsys.readouterr().out
    assert "every number is equal" in printed and printed.count("equal") > 10
    assert "weights after the step: " not in printed  # no checkpoint of step 3 was kept


def test_rollouts_alone_leave_answers_and_no_checkpoint(overrides: list[str], ray_cluster: object,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}
    write, launch = RolloutStore.write, GroupSampler.launch

    def launched(sampler: GroupSampler, *arguments: bool) -> None:
        def writing(store: RolloutStore, step: int, *groups: object) -> None:
            asked[step] = len(sampler._flights) + len(sampler._waiting)
            write(store, step, *groups)
        monkeypatch.setattr(RolloutStore, "write", writing)
        launch(sampler, *arguments)

    monkeypatch.setattr(GroupSampler, "launch", launched)
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [*overrides, "name=sampled", "rollouts_only=true", "steps=2",
                                                        "difficulty.memory.size=0", "trace_steps=[2]"])
    assert tgrpo.run(config) == 0
    run = Path(config.output) / "sampled"
    groups = [group for step in range(2) for group in RolloutStore(run / "rollouts").read(step)]
    assert len(groups) == 8
    assert asked[0] >= 4 and asked[1] == 0, "engines have the next questions before a step is written down"
    assert {rollout.weight_version for group in groups for rollout in group.scored.sampled.rollouts} == {0}
    assert not (run / "checkpoints").exists()
    events = json.loads((run / "trace-step-000002.json").read_text())["traceEvents"]
    assert {"generate", "prepare", "score", "rollout"} <= {event["name"] for event in events}
