"""A node that is told to go: the run writes a checkpoint and ends, and goes on with as many workers as there is room for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from squall.jobs import sft
from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import Preempted
from squall.platform.tracking import read_metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
STEPS = 40


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """Nodes each of which has room for one learner worker; the head for a corruption worker too."""
    folder = tempfile.mkdtemp(prefix="squall-ray-")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": folder})
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "squall", "train", "sft", *words], stdout=log.open("ab"),
                            stderr=subprocess.STDOUT, env=os.environ | {"RAY_AUTH_MODE": "disabled"})


def test_a_drained_node_ends_the_run_with_a_checkpoint_and_fewer_workers_go_on(ray_cluster: object, two_nodes: Cluster,
                                                                            tmp_path: Path) -> None:
    made = build_dataset(EmbeddedDataConfig(directory=tmp_path / "data", train_clips=20, validation_clips=4, test_clips=4))
    words = ["@sft", "model.path=@embedded", f"data.train={made['train']}", "evaluation.manifest=null", f"steps={STEPS}",
             "samples_per_step=4", f"output={tmp_path}", "checkpoint_every_steps=0", "learner.start_timeout_s=600",
             "learner.optimiser.learning_rate=1e-4"]
    assert sft.run(load_config(sft.SFTJobConfig, "@sft", [*words[1:], "name=whole"])) == 0
    run, log = tmp_path / "drained", tmp_path / "log"
    process = start([*words, "name=drained", f"ray_address={two_nodes.address}", "learner.workers=2",
                     "learner.least_workers=1", "learner.cpus=1.2"], log)
    deadline = time.monotonic() + 400
    while not ((run / "metrics.jsonl").exists() and losses(run)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    (node,) = two_nodes.worker_nodes
    client, goes_at_ms = ray._raylet.GcsClient(address=two_nodes.address), int(1000 * (time.time() + 600))
    assert client.drain_node(node.node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "spot", goes_at_ms)[0]
    assert process.wait(timeout=200) == Preempted.status, log.read_text()
    done = len(losses(run))
    assert done < STEPS and (run / "checkpoints" / f"step-{done:06d}").is_dir()
    assert re.search(rf"error: node \S+ \(\w+\) is being drained and will go in \d+ s; stopped after step {done} of {STEPS}, "
                     "with a checkpoint", log.read_text())
    command = re.search(r"resume with: squall train sft (\S+) --resume", log.read_text())
    two_nodes.remove_node(node, allow_graceful=False)

    assert start([command[1], "--resume"], log).wait(timeout=400) == 0, log.read_text()
    assert "learner worker: 1 of 2, for which the cluster has room" in log.read_text()
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), rel=1e-3, abs=1e-6)
