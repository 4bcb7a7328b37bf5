"""A real Ray head with its dashboard: a job is submitted, followed, stopped; its gauges are on the metrics endpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from cluster_files import Exported, queries
from ray.job_submission import JobSubmissionClient

from squall.actors import job_client
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset

pytestmark = pytest.mark.cluster
START_S = 60
Head = tuple[str, int, int]
"""Address of its dashboard, port of its metrics, port to join it."""
TRAIN = ["train", "tgrpo", "@demo", "evaluation.manifest=null", "groups_per_step=4", "max_sampled_groups=60"]


@contextmanager
def started_head(folder: Path, **settings: str) -> Iterator[Head]:
    """A loopback cluster of its own, with 8 logical CPUs and `settings` in its environment."""
    gcs, dashboard, metrics, agent = (free_port() for _ in range(4))
    words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=8",
             "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
             f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}"]  # apart from another cluster's
    environment = clean_environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | settings
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: answers(f"{address}/api/version"), START_S)
        yield address, metrics, gcs
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with started_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    return build_dataset(EmbeddedDataConfig(directory=folder, train_clips=60, validation_clips=4, test_clips=4))["train"]


def clean_environment() -> dict[str, str]:
    """This process's environment without what another cluster of the same test run has left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def squall(*words: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "squall", *words], cwd=folder, env=clean_environment() | environment,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def exposition(port: int) -> str:
    """What a node exports now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def gauges(text: str, run: str) -> set[str]:
    """Series of a run: name and the label that is not the run's."""
    found = set()
    for name, labels, value in re.findall(r"^ray_(squall_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named.get("run") == run and float(value) > 0:
            found.add("/".join([name, *(named[key] for key in ("phase", "worker", "state", "branch") if key in named)]))
    return found


def test_a_submitted_run_is_followed_to_its_end_and_its_gauges_are_served(head: Head, manifest: Path,
                                                                          tmp_path: Path) -> None:
    address, port, _ = head
    seen, exported = set(), Exported()
    job = squall("submit", "--address", address, "--submission-id", "short-run", "--secrets", "[SQUALL_TEST_SECRET]",
                 *TRAIN, f"data.train={manifest}", "steps=3", folder=tmp_path, SQUALL_TEST_SECRET="blue-heron")
    watcher = threading.Thread(target=watch, args=(job, port, "short-run", seen, exported))
    watcher.start()
    output, _ = job.communicate(timeout=240)
    watcher.join()
    assert job.returncode == 0, output
    assert "step 3/3" in output and "job short-run succeeded" in output and "WebSocket" not in output
    run = tmp_path / "runs" / "short-run"
    assert (run / "report.html").is_file() and "job: train tgrpo" in (run / "config.yaml").read_text()
    assert {"squall_phase/engines", "squall_worker_state/engine-0/healthy", "squall_accuracy/clean", "squall_tokens_per_s",
            "squall_step"} <= seen
    assert [lack for query in queries() for lack in exported.lacks(query)] == [], "of cluster/monitoring"
    details = JobSubmissionClient(address).get_job_info("short-run")
    assert details.metadata["job"] == "train tgrpo" and details.driver_exit_code == 0
    assert "blue-heron" not in details.model_dump_json() + output
    listed, _ = squall("jobs", "--address", address, folder=tmp_path).communicate(timeout=60)
    assert "short-run" in listed and "succeeded" in listed


def watch(job: subprocess.Popen[str], port: int, run: str, seen: set[str], exported: Exported) -> None:
    while job.poll() is None:
        with suppress(OSError):  # the node's agent is not up yet
            text = exposition(port)
            seen |= gauges(text, run)
            exported.read(text)
        time.sleep(1)


def test_ctrl_c_stops_the_job_with_a_checkpoint(head: Head, manifest: Path, tmp_path: Path) -> None:
    address = head[0]
    job = squall("submit", "--address", address, "--submission-id", "long-run", "train", "sft", "@sft",
                 "model.path=@embedded", f"data.train={manifest}", "evaluation.manifest=null", "samples_per_step=4",
                 "steps=5000", folder=tmp_path)
    metrics = tmp_path / "runs" / "long-run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text(), 240)
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 130, output
    assert "job long-run stopped" in output and "resume with:" in output
    assert list((tmp_path / "runs" / "long-run" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(("words", "message"), [
    (["engine.count=50", "placement.timeout_s=1"], "but the cluster has 8"),
    (["data.train=missing.jsonl"], "no such manifest"),
])
def test_what_the_cluster_refuses_is_one_clear_line(head: Head, manifest: Path, tmp_path: Path, words: list[str],
                                                    message: str) -> None:
    started = time.monotonic()
    job = squall("submit", "--address", head[0], *TRAIN, f"data.train={manifest}", *words, folder=tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 2 and message in output and "Traceback" not in output
    assert time.monotonic() - started < 30 and not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("words", [["train", "tgrpo", "@demo", "evaluation.manifest=null"], ["tune", "sweep.yaml"]])
def test_a_cluster_that_does_not_answer_is_one_clear_line_and_no_folder(manifest: Path, tmp_path: Path,
                                                                       words: list[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    job = squall(*words, f"data.train={manifest}", "ray_address=127.0.0.1:1", folder=tmp_path)
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 2 and "no Ray cluster answers at 127.0.0.1:1 (Connection refused)" in output
    assert "Traceback" not in output and " W " not in output  # Ray's own warnings
    assert not list(tmp_path.glob("runs/*"))


def test_a_folder_in_which_something_changes_is_sent_as_it_is(head: Head, tmp_path: Path) -> None:
    project, new, over = tmp_path / "project", tmp_path / "new.txt", threading.Event()
    project.mkdir()

    def change() -> None:
        while not over.is_set():
            new.write_text(str(time.monotonic_ns()))
            new.rename(project / "changing.txt")

    writer = threading.Thread(target=change)
    writer.start()
    try:
        job = squall("submit", "--address", head[0], "--working-dir", str(project), *TRAIN, f"output={tmp_path}",
                     "data.train=missing.jsonl", folder=tmp_path)
        output, _ = job.communicate(timeout=120)
    finally:
        over.set()
        writer.join()
    assert job.returncode == 2 and "missing.jsonl: no such manifest" in output, output


def test_a_job_that_ray_gives_up_says_why(head: Head, tmp_path: Path) -> None:
    (tmp_path / "env.yaml").write_text("working_dir: gcs://_ray_pkg_0123456789abcdef.zip\n")
    job = squall("submit", "--address", head[0], "--runtime-env", "env.yaml", *TRAIN, "data.train=missing.jsonl",
                 folder=tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "was given up by Ray: runtime_env setup failed" in output, output
    assert "_ray_pkg_0123456789abcdef.zip" in output and "Traceback" not in output and len(output.splitlines()) == 2


def test_a_secret_is_given_once_and_shown_nowhere(head: Head) -> None:
    client = job_client.connect(head[0])
    name = job_client.hand_over_secrets(client, {"SQUALL_TEST_SECRET": "grey-heron"})
    take = "from squall.actors import job_client; import os; job_client.take_secrets(); print(os.environ['SQUALL_TEST_SECRET'])"
    environment = clean_environment() | {job_client.SECRETS_VARIABLE: name, "RAY_ADDRESS": f"127.0.0.1:{head[2]}"}
    first, second = (subprocess.run([sys.executable, "-c", take], env=environment, capture_output=True, text=True, timeout=60)
                     for _ in range(2))
    assert first.stdout.strip() == "grey-heron", first.stderr
    assert second.returncode and "given once" in second.stderr
    with urllib.request.urlopen(f"{head[0]}/api/jobs/", timeout=10) as listing:
        assert b"heron" not in listing.read()


def test_a_cluster_with_tokens_is_joined_with_the_right_one_and_refused_without(manifest: Path, tmp_path: Path) -> None:
    right, wrong = "right-" + "a" * 32, "wrong-" + "b" * 32
    with started_head(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=right) as (address, _, _):
        for settings in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": wrong}):
            output, _ = squall("submit", "--address", address, *TRAIN, f"data.train={manifest}", folder=tmp_path,
                               **settings).communicate(timeout=60)
            assert "asks for a token" in output and "set RAY_AUTH_MODE=token" in output and wrong not in output
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": right}
        job = squall("submit", "--address", address, *TRAIN, f"data.train={manifest}", "engine.count=50",
                     "placement.timeout_s=1", folder=tmp_path, **known)
        output, _ = job.communicate(timeout=120)  # to be told what the cluster has, the job's driver must have joined it
        assert job.returncode == 2 and "but the cluster has 8" in output and right not in output
        listed, _ = squall("jobs", "--address", address, folder=tmp_path, **known).communicate(timeout=60)
        assert "failed" in listed


SWEEP = """
job: train sft
base: "@sft"
space: {learner.optimiser.learning_rate: {grid_search: [1.0e-3, 1.0e-9]}}
sweep: {metric: loss, mode: min, search: grid, scheduler: asha, grace_steps: 2, reduction_factor: 2, concurrent_trials: 1}
steps: 8
samples_per_step: 4
model: {path: "@embedded"}
evaluation: {manifest: null}
checkpoint_every_steps: 2
"""


def test_a_sweep_that_was_killed_goes_on_prunes_and_leaves_nothing_behind(head: Head, manifest: Path,
                                                                          tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    cluster = {"RAY_ADDRESS": f"127.0.0.1:{head[2]}"}
    folder = tmp_path / "runs" / "s"
    broken_off = squall("tune", "sweep.yaml", "name=s", f"data.train={manifest}", folder=tmp_path, **cluster)
    metrics = folder / "trials" / "s-00000" / "checkpoints" / "step-000004"
    wait_until(metrics.is_dir, 240)
    broken_off.kill()
    broken_off.communicate(timeout=60)
    again = squall("tune", str(folder / "sweep.yaml"), "--resume", folder=tmp_path, **cluster)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    results = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["trials"]}
    first, second = (results[name] for name in ("s-00000", "s-00001"))
    assert (first["state"], first["step"], second["state"]) == ("finished", 8, "pruned") and second["step"] < 8
    assert (folder / "trials" / "s-00000" / "events.jsonl").read_text().count('"resumed"') == 1
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["job"] == "train sft" and best["learner"]["optimiser"]["learning_rate"] == 1e-3
    assert "<svg" in (folder / "sweep.html").read_text()
    left = subprocess.run([sys.executable, "-c", LEFT], env=clean_environment() | cluster, capture_output=True, text=True,
                          timeout=60)
    assert left.stdout.strip() == "[] []", left.stdout + left.stderr


ROWS = """
job: train tgrpo
rows: {GRPO: {config: "@rova/grpo", seeds: [1]}, ROVA: {config: "@rova", seeds: [1]}}
steps: 1
groups_per_step: 2
max_sampled_groups: 64
evaluation: {questions: 4}
"""


def test_rows_of_an_ablation_run_alike_and_stand_in_one_table(head: Head, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(ROWS)
    folder = tmp_path / "runs" / "r"
    words = [f"data.train={manifest}", f"evaluation.manifest={manifest.parent / 'test.jsonl'}"]
    output, _ = squall("tune", "rows.yaml", "name=r", *words, folder=tmp_path,
                       RAY_ADDRESS=f"127.0.0.1:{head[2]}").communicate(timeout=280)
    assert "table: runs/r/ablation.md" in output and "n = 4 held-out questions" in output, output
    lines = [line.split(" | ") for line in (folder / "ablation.md").read_text().splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines] == ["| row", "| ---", "| GRPO", "| ROVA"] and len({len(line) for line in lines}) == 1
    compared = lines[0].index("pairs judged")
    assert int(lines[3][compared]) > 0 and lines[2][compared] == "0", "GRPO asks no judge"
    configs = [yaml.safe_load((folder / "trials" / f"r-0000{i}" / "config.yaml").read_text()) for i in (0, 1)]
    assert [(values["seed"], values["difficulty"]["reading"]) for values in configs] == [(1, "off"), (1, "answers")]


LEFT = """
import ray
from ray.util.state import list_actors
ray.init(log_to_driver=False)
groups = [g["placement_group_id"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
rays_own = ("JobSupervisor", "_AutoscalingCoordinatorActor")
print(groups, [a.class_name for a in list_actors(filters=[("state", "=", "ALIVE")]) if a.class_name not in rays_own])
"""
"""Placement groups and actors that live on a cluster, but for those that Ray keeps for itself."""
