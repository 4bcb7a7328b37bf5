"""A head and worker nodes that share one folder and nothing else: runs cross them, lose them, and count each group once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.models import load_policy
from squall.platform.runs import read_lines
from squall.platform.store import RolloutStore
from squall.platform.tracking import read_metrics
from tests.helpers.nodes import Nodes, can_part, nodes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
STEPS = 6
PATIENCE_S = 900
"""For what takes half a minute on a quiet machine."""
SPREAD = ["engine.count=2", "engine.cpus=1.6", "workers.corruption_count=2", "workers.reward_count=2",
          "data.frames.max_frames=12"]
"""A node of 3 CPUs holds one engine; clips are too large to travel inside messages."""
LEARNER = "{learner: {labels: {squall: learner}}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without CPUs, nodes 1 and 2, and 60 training clips in the folder that all see."""
    if not can_part():
        pytest.skip("this machine lets no process have a network and folders of its own (unshare --user --net --mount)")
    with nodes() as started:
        build_dataset(EmbeddedDataConfig(directory=started.shared / "data", train_clips=60, validation_clips=4, test_clips=4))
        started.start_head("--num-cpus=0")
        (started.own(0) / "project").mkdir()
        started.join(1, "--num-cpus=3")
        started.join(2, "--num-cpus=3", "--labels=squall=learner")
        yield started


def submit(cluster: Nodes, name: str, *words: str) -> subprocess.Popen[str]:
    """`squall submit` of the demo's training, cut small, whose run directory no node but the head's has."""
    return cluster.popen([sys.executable, "-m", "squall", "submit", "--address", cluster.url, "--submission-id", name,
                          "train", "tgrpo", "@demo", f"data.train={cluster.shared}/data/train.jsonl", f"steps={STEPS}",
                          f"output={cluster.here}/runs", "evaluation.manifest=null", "groups_per_step=4",
                          "max_sampled_groups=60", f"engine.startup_timeout_s={PATIENCE_S}",
                          f"learner.start_timeout_s={PATIENCE_S}", *words], cluster.here / "project")


def run_of(cluster: Nodes, name: str) -> Path:
    return cluster.own(0) / "runs" / name


def wait_for_steps(cluster: Nodes, job: subprocess.Popen[str], run: Path, steps: int) -> None:
    def done() -> bool:
        assert job.poll() is None, job.communicate()[0]
        return len(read_lines(run / "consumed.jsonl")) >= steps
    cluster.wait_until(done, PATIENCE_S, f"step {steps}")


def says(run: Path, kind: str, text: str) -> bool:
    return any(row["kind"] == kind and text in json.dumps(row) for row in read_lines(run / "events.jsonl"))


def check_counts(run: Path) -> Counter[str]:
    """Each group stands in one step with one outcome, and events, metrics and stored answers agree; returns the outcomes."""
    rows = read_lines(run / "consumed.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS))
    groups = [(name, outcome) for row in rows for name, outcome in row["groups"].items()]
    assert len({name for name, _ in groups}) == len(groups)
    outcomes = Counter(outcome for _, outcome in groups)
    metrics = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [step + 1 for step in range(STEPS)]
    sampled, trained = (int(sum(row[f"groups/{name}"] for row in metrics)) for name in ("sampled", "trained"))
    dropped = Counter({name.removeprefix("dropped/"): int(value) for row in metrics for name, value in row.items()
                       if name.startswith("dropped/") and value})
    total: Counter[str] = Counter()
    for row in metrics:
        total.update({name.removeprefix("dropped/"): int(value) for name, value in row.items() if name.startswith("dropped/")})
    assert sampled == len(groups) == trained + total.total() and trained == outcomes.pop("trained")
    assert +total == outcomes and set(dropped) == set(outcomes)
    store = RolloutStore(run / "rollouts")
    assert sum(len(store.read(step)) for step in range(STEPS)) == trained
    lost = [row for row in read_lines(run / "events.jsonl") if row["kind"] == "group_lost"]
    assert len({row["group"] for row in lost}) == sum(outcomes[reason] for reason in {row["reason"] for row in lost})
    return outcomes


def test_files_that_another_node_lacks_are_named_before_anything_starts(cluster: Nodes) -> None:
    build_dataset(EmbeddedDataConfig(directory=cluster.own(0) / "data", train_clips=4, validation_clips=4, test_clips=4))
    job = submit(cluster, "lacking", f"data.train={cluster.here}/data/train.jsonl")
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 2 and f"error: data.train: {cluster.here}/data/train/" in output, output
    assert ".mp4 is not on node" in output and "(nor on 1 more nodes), where a corruption worker reads it" in output
    assert not run_of(cluster, "lacking").exists()


def test_a_run_goes_on_when_a_node_is_killed_and_says_what_it_waits_for(cluster: Nodes) -> None:
    job, run = submit(cluster, "hurt", *SPREAD, f"placement={LEARNER}"), run_of(cluster, "hurt")
    wait_for_steps(cluster, job, run, 1)
    cluster.kill(1)

    def waits() -> bool:
        assert job.poll() is None, job.communicate()[0]
        return says(run, "waiting", "waiting for engine-")
    cluster.wait_until(waits, PATIENCE_S, "what it waits for")
    wait_for_steps(cluster, job, run, len(read_lines(run / "consumed.jsonl")) + 1)  # with the engine that is left
    cluster.join(1, "--num-cpus=3")
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, output
    assert "it takes 1.6 CPUs on one node" in output and "1 of 2 go on" in output
    assert says(run, "worker", '"after": "dead"') and says(run, "worker", '"before": "restarting", "after": "stale"')
    check_counts(run)
    assert {row["kind"] for row in read_lines(run / "events.jsonl")} >= {"checkpoint", "finished"}
    assert load_policy(str(run / "checkpoints" / f"step-{STEPS:06d}")).num_parameters() > 800_000
    versions = {rollout.weight_version for group in RolloutStore(run / "rollouts").read(STEPS - 1)
                for rollout in group.scored.sampled.rollouts}
    assert versions == {STEPS - 1}


def test_a_run_whose_learner_is_lost_goes_on_from_its_checkpoint(cluster: Nodes) -> None:
    job, run = submit(cluster, "orphaned", f"placement={LEARNER}", "checkpoint_every_steps=2"), run_of(cluster, "orphaned")
    wait_for_steps(cluster, job, run, 3)
    cluster.kill(2)
    log = run / "logs" / "driver.log"
    cluster.wait_until(lambda: "waiting up to 300 s" in log.read_text(), PATIENCE_S, "what it waits for")
    cluster.join(2, "--num-cpus=3", "--labels=squall=learner")
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, output
    assert "Going on from step-000002 (2 of learner.recoveries 3 left)" in output
    assert "learner worker: no node is labelled squall=learner" in output
    check_counts(run)
