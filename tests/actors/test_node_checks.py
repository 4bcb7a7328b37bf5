"""What nodes say of themselves, and the lines about what would stop a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from squall.actors.node_checks import Needs, NodeReport, Places, problems, report_here
from squall.actors.resources import ClusterResources, Node
from squall.platform.machine import GIB

NODES = tuple(Node(name, {"CPU": 4.0}, id=name, object_store_bytes=2 * GIB) for name in ("a", "b"))
WELL = NodeReport({"Python": "3.11.9", "Ray": "2.60.0", "vLLM": "0.32.0", "Squall": "0.1.0"}, "0123456789",
                  {"Ray's files": ("/tmp/ray", 9 * GIB), "the output": ("/runs", 9 * GIB)}, 9 * GIB)
PLACES = Places(Counter(a=1, b=3), Counter(b=1), Counter(a=1))


def found(needs: Needs, places: Places = PLACES, **other: NodeReport) -> list[str]:
    reports = {"a": WELL, "b": WELL} | other
    return list(problems(ClusterResources(8, 0, nodes=NODES), reports, other.get("driver", WELL), needs, places, GIB))


def versions(**other: str | None) -> NodeReport:
    return replace(WELL, versions={**WELL.versions, **other})


def test_nodes_as_the_driver_have_no_problems() -> None:
    assert found(Needs(clips=2 * GIB, weights=5 * GIB, checkpoint=8 * GIB)) == []
    assert found(Needs(), a=versions(vLLM=None)) == []  # no engine lies there


@pytest.mark.parametrize(("report", "line"), [
    (versions(Python="3.12.1"), "node b has Python 3.12.1 and the driver 3.11.9; start it from the driver's image"),
    (versions(vLLM=None), "node b has vLLM (none) and the driver 0.32.0"),
    (replace(WELL, code="fedcba9876"), "node b has other code of Squall 0.1.0 (fedcba9876) than the driver (0123456789)"),
    (replace(WELL, disks={"spilled objects": ("/spill", GIB // 2)}), "node b has 0.5 GiB free in /spill for spilled objects"),
])
def test_another_image_or_a_full_disk_is_named(report: NodeReport, line: str) -> None:
    (only,) = found(Needs(), b=report)
    assert only.startswith(line)


def test_memory_is_summed_up_by_node() -> None:
    (store,) = found(Needs(clips=3 * GIB))
    assert store.startswith("node b has an object store of 2.0 GiB and its 3 of 4 corruption workers may make 2.2 GiB of clips")
    few = replace(WELL, shared_memory=6 * GIB)
    needs = Needs(clips=2 * GIB, weights=5 * GIB)
    (shared,) = found(needs, a=few, b=few, places=replace(PLACES, learner=Counter(b=1)))  # nothing on a, 1.5 + 5 on b
    assert shared.startswith("node b has 6.0 GiB free in /dev/shm and a hand-over of weights takes 5.0 GiB beside 1.5 GiB of")
    first, second = found(needs, a=few, b=few)  # 5 on each, and the object stores of 2, through which they go
    assert "takes 5.0 GiB beside 0.5 GiB of clips and up to 1.5 GiB in the object store on the way to other nodes; " in first
    assert "takes 5.0 GiB beside 1.5 GiB of clips and up to 0.5 GiB in the object store" in second


def test_the_output_must_hold_a_checkpoint() -> None:
    (line,) = found(Needs(checkpoint=8.5 * GIB))
    assert line.startswith("/runs has 9.0 GiB free for the output, and a checkpoint takes 8.5 GiB beside placement.")


@pytest.fixture(scope="module")
def other_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on a node's path, makes it have another vLLM."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "vllm-0.1.2.dist-info").mkdir()
    (folder / "vllm-0.1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.1.2\n")
    return folder


@pytest.fixture(scope="module")
def address(other_image: Path) -> Iterator[str]:
    """A head, and a node of another image."""
    import shutil
    import tempfile

    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="squall-ray-")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": folder})
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{other_image}:{before}"
    made.add_node(num_cpus=3)
    os.environ["PYTHONPATH"] = before
    yield made.address
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
def test_every_node_is_asked_and_one_of_another_image_is_named(address: str, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from squall.actors.cluster import start_ray
from squall.actors.node_checks import Needs, ask_nodes, find_problems
from squall.actors.placement import Placement, PlacementConfig
from squall.actors.resources import Demand, ResourcePlan
from squall.platform.errors import ResourceError
cluster, placement = start_ray(sys.argv[1]), Placement("asked")
placement.reserve(ResourcePlan([Demand("engine", 1, 3.0), Demand("corruption worker", 1, 0.5)]), cluster, 30)
def show(config, needs): print("\\n".join(find_problems(cluster, placement, config, needs, Path(sys.argv[2]))), flush=True)
show(PlacementConfig(), Needs())
print("---")
show(PlacementConfig(min_disk_gib=2**20), Needs(clips=2**30, weights=2**50))
try: ask_nodes(cluster.nodes, 0.001)
except ResourceError as error: print("LATE", error)
"""
    done = subprocess.run([sys.executable, "-c", code, address, str(tmp_path)], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    first, _, second = done.stdout.partition("---")
    own = report_here({}).versions["vLLM"]
    assert f" has vLLM 0.1.2 and the driver {own}; start it from the driver's image or environment" in first, done.stderr
    assert first.count("\n") == 1
    assert second.count("for Ray's files, below placement.min_disk_gib 1048576.0 GiB") == 2
    assert "has an object store of 0.1 GiB and its 1 of 1 corruption workers may make 1.0 GiB of clips" in second
    assert second.count("free in /dev/shm and a hand-over of weights takes 1048576.0 GiB") == 1
    assert f"{tmp_path} has " in second
    assert "did not say within 0 s (placement.node_timeout_s) what it runs" in second.partition("LATE")[2]
