"""KubeRay and `ray up`: what no cluster here can apply is held to its schema, to the lock file and to the plan of its job."""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import CLUSTER, ROOT
from jsonschema import Draft202012Validator, ValidationError

import squall

KUBERAY = CLUSTER / "kuberay"
SCHEMA = Draft202012Validator(yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text()))
CLUSTER_SPEC = yaml.safe_load((KUBERAY / "cluster" / "cluster.yaml").read_text())
JOB = yaml.safe_load((KUBERAY / "job" / "job.yaml").read_text())
GROUPS = {group["groupName"]: group for group in CLUSTER_SPEC["spec"]["workerGroupSpecs"]}
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which has kustomize")


def pods() -> Iterator[dict[str, Any]]:
    """Pod specs of the cluster, of its job and of the monitoring beside it."""
    yield CLUSTER_SPEC["spec"]["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in GROUPS.values())
    yield JOB["spec"]["submitterPodTemplate"]["spec"]
    for document in yaml.safe_load_all((CLUSTER / "monitoring" / "kubernetes.yaml").read_text()):
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]


def test_cluster_and_job_are_what_kuberay_takes() -> None:
    for document in (CLUSTER_SPEC, JOB):
        SCHEMA.validate(document)
    wrong = copy.deepcopy(CLUSTER_SPEC)
    wrong["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(ValidationError, match="minReplica"):
        SCHEMA.validate(wrong)


@needs_kubectl
def test_kustomize_lays_the_cluster_into_the_job_and_names_the_images() -> None:
    made = {name: list(yaml.safe_load_all(subprocess.run(["kubectl", "kustomize", KUBERAY / name], capture_output=True,
                                                         check=True, text=True).stdout)) for name in ("cluster", "job")}
    (cluster,) = [document for document in made["cluster"] if document["kind"] == "RayCluster"]
    (job,) = [document for document in made["job"] if document["kind"] == "RayJob"]
    SCHEMA.validate(cluster)
    SCHEMA.validate(job)
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert not [document for document in made["job"] if document["kind"] == "RayCluster"]
    images = set(re.findall(r"image: (\S+)", yaml.safe_dump(made)))
    assert images == {f"registry.example.com/squall:{squall.__version__}-{kind}" for kind in ("gpu", "cpu")}


@needs_kubectl
def test_kustomize_carries_the_rules_and_the_dashboard() -> None:
    text = subprocess.run(["kubectl", "kustomize", CLUSTER / "monitoring"], capture_output=True, check=True, text=True).stdout
    data = {name: content for document in yaml.safe_load_all(text) if document["kind"] == "ConfigMap"
            for name, content in document["data"].items()}
    assert data["rules.yml"] == (CLUSTER / "monitoring" / "rules.yml").read_text()
    assert "kubernetes_sd_configs" in data["prometheus.yml"] and "ray_squall_phase" in data["squall.json"]


def test_the_versions_are_those_of_the_lock_file() -> None:
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and CLUSTER_SPEC["spec"]["rayVersion"] == pinned[1]


def test_no_pod_is_root_unbounded_or_told_a_secret_in_clear() -> None:
    found = list(pods())
    assert len(found) == 8
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("automountServiceAccountToken") is False or pod["serviceAccountName"] == "squall-prometheus"
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["image"] in ("squall-gpu", "squall-cpu") or re.search(r":v?\d+\.\d+\.\d+$", container["image"])
            for variable in container.get("env", ()):
                assert "secretKeyRef" in variable.get("valueFrom", {}) or not re.search("TOKEN|PASSWORD|KEY", variable["name"])


def test_ray_pods_are_probed_and_have_shared_memory_within_their_memory() -> None:
    for pod in [CLUSTER_SPEC["spec"]["headGroupSpec"]["template"]["spec"], *(g["template"]["spec"] for g in GROUPS.values())]:
        (container,) = pod["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        assert {"name": "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "value": "1"} in container["env"], "for SquallDiskNearlyFull"
        assert {"metrics"} <= {port["name"] for port in container["ports"]}
        (memory,) = [volume["emptyDir"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
        assert gibibytes(memory["sizeLimit"]) <= gibibytes(container["resources"]["limits"]["memory"]) / 2
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_job_that_is_stopped_has_time_for_a_checkpoint_and_a_group_that_never_comes_a_deadline() -> None:
    from squall.actors.job_client import STOP_WAIT_S

    variables = yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} and JOB["spec"]["preRunningDeadlineSeconds"] > 0


def gibibytes(amount: str) -> float:
    assert amount.endswith("Gi")
    return float(amount.removesuffix("Gi"))


def test_the_groups_hold_the_plan_of_the_job_each_role_where_its_label_says() -> None:
    from squall.actors.resources import ClusterResources, Node, ResourcePlan
    from squall.jobs.registry import find_job
    from squall.jobs.tgrpo import demands
    from squall.platform.config import load_config

    overrides = shlex.split(JOB["spec"]["entrypoint"])[5:]
    config = load_config(find_job("train tgrpo").load()[0], "@tgrpo", overrides)
    plan = ResourcePlan(config.placement.tie(demands(config)))
    nodes = []
    for group in GROUPS.values():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        amounts = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        nodes += [Node(f"{group['groupName']}-{number}", amounts, group["labels"]) for number in range(group["replicas"])]
    whole = ClusterResources(*(sum(node.amounts[kind] for node in nodes) for kind in ("CPU", "GPU")), nodes=tuple(nodes))
    assert plan.shortage(whole) == ""
    without = tuple(node for node in nodes if node.labels != {"squall": "reward"})
    assert "reward worker: no node is labelled squall=reward" in plan.shortage(ClusterResources(99, 99, nodes=without))


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_kuberay_starts_again_goes_on(tmp_path: Path, begun: bool) -> None:
    (tmp_path / "squall").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "squall").chmod(0o755)
    run = tmp_path / "runs" / "a"
    if begun:
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
    keys = ["@tgrpo", "placement.engine.labels={squall: rollout}"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SQUALL_RUNS": str(tmp_path / "runs")}
    answer = subprocess.run([KUBERAY / "job" / "go-on.sh", "train", "tgrpo", "a", *keys], env=environment,
                            capture_output=True, text=True, check=True)
    fresh = [*keys, "name=a", f"output={tmp_path / 'runs'}"]
    assert answer.stdout.splitlines() == ["train", "tgrpo", *([f"{run}/config.yaml", "--resume"] if begun else fresh)]


def test_only_the_cluster_its_submitter_its_operator_and_prometheus_reach_it() -> None:
    policy = yaml.safe_load((KUBERAY / "cluster" / "network.yaml").read_text())["spec"]
    own, control, figures = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"] and own["from"] == [{"podSelector": policy["podSelector"]}]
    assert control["ports"] == [{"port": 8265}] and figures["ports"] == [{"port": 8080}]
    submitter = JOB["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert control["from"][0]["podSelector"]["matchLabels"] == submitter


def test_ray_up_takes_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert "--dashboard-host=127.0.0.1" in " ".join(prepared["head_start_ray_commands"])
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    nodes = config["available_node_types"]
    assert [nodes[name]["resources"].get("GPU", 0) for name in ("head", "gpu", "cpu")] == [0, 8, 0]
    images = {config["docker"]["image"], config["docker"]["head_image"], nodes["gpu"]["docker"]["worker_image"]}
    assert images == {f"registry.example.com/squall:{squall.__version__}-{kind}" for kind in ("gpu", "cpu")}
