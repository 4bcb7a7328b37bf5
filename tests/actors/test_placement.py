"""Placement groups on a cluster of several nodes of one machine: who lies where, what is said in time, what stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from squall.actors.placement import PlacementConfig
from squall.actors.resources import Demand
from squall.platform.config import validate
from squall.platform.errors import ConfigError

PRELUDE = """
import sys, time
import ray
from squall.actors.cluster import cluster_resources, start_ray, stop_ray
from squall.actors.placement import Placement
from squall.actors.resources import Demand, ResourcePlan
from squall.platform.errors import ResourceError
cluster = start_ray(sys.argv[1])
placement, told = Placement("placed"), []
def reserve(timeout_s, *demands):
    return placement.reserve(ResourcePlan(demands), cluster_resources(), timeout_s, told.append)
def groups():
    return [entry for entry in ray.util.placement_group_table().values() if entry["state"] != "REMOVED"]
"""
ENDS = """
@ray.remote(num_cpus=0.5)
class Actor:
    def node(self): return ray.get_runtime_context().get_node_id()
names = {node.id: node.labels.get("squall", "head") for node in cluster_resources().nodes}
tied = Demand("engine", 2, 1.0, labels={"squall": "rollout"}, resources={"slot": 1.0})
reserve(30, tied, Demand("corruption worker", 4, 0.25), Demand("learner worker", 2, 1.0, labels={"squall": "rollout"}))
engine = Actor.options(**placement.options("engine", 1)).remote()
print("engine on", names[ray.get(engine.node.remote())])
print("engines", sorted(names[node] for node in placement.nodes_of("engine").elements()))
print("corruption nodes", len(placement.nodes_of("corruption worker")))
print("learner", placement.give_back("learner worker").labels, len(groups()))
print("reserved", len(groups()), flush=True)
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    """A head without GPUs and two nodes, one of them labelled, all on this machine."""
    folder = tempfile.mkdtemp(prefix="squall-ray-")  # its own, so that no other cluster of the machine is written over
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": folder})
    made.add_node(num_cpus=4, labels={"squall": "rollout"}, resources={"slot": 2})
    made.add_node(num_cpus=4)
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(made: Cluster) -> str:
    return made.address


def drive(address: str, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PRELUDE + code, address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"})


def output_of(address: str, code: str) -> str:
    return drive(address, code).communicate(timeout=120)[0]


@pytest.mark.cluster
def test_actors_lie_where_they_are_tied_and_a_killed_driver_leaves_nothing(address: str) -> None:
    driver = drive(address, ENDS + "time.sleep(600)")
    seen = ""
    while "reserved" not in seen and driver.poll() is None:
        seen += driver.stdout.readline()
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=30)
    assert "engine on rollout\nengines ['rollout', 'rollout']\ncorruption nodes 2\n" in seen, seen
    assert "learner {'squall': 'rollout'} 2" in seen
    left = output_of(address, """
deadline = time.monotonic() + 30
while (groups() or ray.available_resources().get("CPU") != 10) and time.monotonic() < deadline: time.sleep(0.1)
print("left", len(groups()), ray.available_resources().get("CPU"), ray.available_resources().get("slot"))
""")
    assert "left 0 10.0 2.0" in left


@pytest.mark.cluster
def test_what_does_not_come_or_is_not_free_is_named_in_time_and_leaves_nothing(address: str) -> None:
    said = output_of(address, """
def refused(*demands):
    started = time.monotonic()
    try: reserve(2, *demands)
    except ResourceError as error: print("REFUSED", error, "|", len(groups()), time.monotonic() - started < 6)
refused(Demand("engine", 1, 1.0, labels={"squall": "late"}))
print(told)
refused(Demand("engine", 1, 5.0))
blocker = Placement("other")
blocker.reserve(ResourcePlan([Demand("engine", 2, 3.0)]), cluster_resources(), 10)
refused(Demand("engine", 2, 3.0))
blocker.remove()
print("range", [d.count for d in reserve(10, Demand("engine", 1, 1.0), Demand("learner worker", 6, 3.0, least=1)).demands])
""")
    lines = [line for line in said.splitlines() if line.startswith("REFUSED")]
    assert len(lines) == 3, said
    assert "engine: no node is labelled squall=late (there are " in lines[0] and "waited 2 s (placement.timeout_s)" in lines[0]
    assert "waiting up to 2 s (placement.timeout_s) for nodes: engine: no node is labelled squall=late" in said
    assert "engine: no node has the 5 CPUs that one takes" in lines[1]
    assert "engine: 2 x 3 CPUs are not free: the cluster is large enough and others hold it; left are 4 CPU" in lines[2]
    assert [line.split("|")[1].strip() for line in lines] == ["0 True", "0 True", "1 True"]  # the other one's stays
    assert "range [1, 2]" in said


@pytest.mark.cluster
def test_a_node_that_comes_in_time_is_taken(made: Cluster) -> None:
    driver = drive(made.address, """
reserve(60, Demand("engine", 1, 1.0, labels={"squall": "late"}))
print("told", len(told), "placed", sum(placement.nodes_of("engine").values()))
placement.remove()
""")
    time.sleep(5)
    node = made.add_node(num_cpus=1, labels={"squall": "late"})
    said = driver.communicate(timeout=120)[0]
    made.remove_node(node)
    assert "placed 1" in said, said


def test_roles_are_tied_by_their_names_and_bad_labels_are_refused() -> None:
    config = validate(PlacementConfig, {"engine": {"labels": {"squall": "rollout"}}, "corruption": {"resources": {"slot": 1}}},
                      where="placement")
    demands = [Demand("engine", 1, 1.0), Demand("corruption worker", 1, 1.0), Demand("training", 1, 1.0)]
    tied = config.tie(demands)
    assert [(dict(d.labels), dict(d.resources)) for d in tied] == [({"squall": "rollout"}, {}), ({}, {"slot": 1.0}), ({}, {})]
    for values, what in (({"engine": {"labels": {"a": "b c"}}}, "is no label"), ({"judge": {"resources": {"GPU": 1}}},
                                                                              "is no custom resource")):
        with pytest.raises(ConfigError, match=what):
            validate(PlacementConfig, values, where="placement")
