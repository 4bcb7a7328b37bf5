"""Whether plans fit on nodes, and what is said where they do not."""

from __future__ import annotations

import pytest

from squall.actors.resources import ClusterResources, Demand, Node, ResourcePlan
from squall.platform.errors import ResourceError


def cluster(*nodes: Node) -> ClusterResources:
    return ClusterResources(*(sum(node.amounts.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")), nodes=nodes)


def gpus(*counts: float) -> ClusterResources:
    return cluster(*(Node(f"n{number}", {"CPU": 16.0, "GPU": count}) for number, count in enumerate(counts)))


def shortage(available: ClusterResources, *demands: Demand) -> str:
    return ResourcePlan(demands).shortage(available)


def test_seven_gpus_on_seven_nodes_do_not_hold_an_engine_of_four() -> None:
    engine = Demand("engine", 1, 2.0, 4.0)
    with pytest.raises(ResourceError) as refused:
        ResourcePlan([engine]).check(gpus(*[1] * 7))
    assert str(refused.value) == (
        "engine: no node has the 4 GPUs that one takes; n0 has the most, 1, of 7 nodes with 7 GPUs in all; lower what a "
        "'engine' takes, or add a larger node")
    assert shortage(gpus(1, 1, 1, 4), engine) == ""


def test_a_role_has_room_for_fewer_than_its_count() -> None:
    found = shortage(gpus(6, 6, 6), Demand("engine", 4, 1.0, 4.0))
    assert found.startswith("engine: nodes have room for 3 of 4 x 1 CPU + 4 GPUs (n0 6 GPUs + 16 CPUs, n1 ")


def test_roles_that_fit_alone_and_not_together() -> None:
    engines, learner = Demand("engine", 2, 1.0, 4.0), Demand("learner worker", 2, 1.0, 3.0)
    assert shortage(gpus(8, 6), engines, learner) == ""  # 4 + 4 and 3 + 3
    found = shortage(gpus(7, 5, 2), engines, learner)
    assert found.startswith("learner worker: 1 of 2 x 1 CPU + 3 GPUs fit beside engine 2 x 1 CPU + 4 GPUs on the 3 nodes")
    assert "left are n0 0 GPUs + 14 CPUs, n1 1 GPU + 15 CPUs, n2 2 GPUs + 16 CPUs: each" in found


def test_what_a_greedy_order_misses_is_found_by_search() -> None:
    # the larger ones, placed first, take both nodes that could hold two small ones each
    tied = [Node("a", {"CPU": 5.0}), Node("b", {"CPU": 6.0})]
    assert shortage(cluster(*tied), Demand("engine", 2, 3.0), Demand("learner worker", 2, 2.0)) == ""


@pytest.mark.parametrize("nodes", [64, 500])
def test_a_large_cluster_is_looked_at_quickly(nodes: int) -> None:
    plan = (Demand("engine", 4 * nodes, 1.0, 1.0), Demand("learner worker", 2 * nodes, 1.0, 2.0))
    assert shortage(gpus(*[8] * nodes), *plan) == ""
    assert shortage(gpus(*[8] * (nodes - 1), 7), *plan).startswith("plan needs")


def test_labels_and_custom_resources_tie_a_role_to_nodes() -> None:
    nodes = cluster(Node("head", {"CPU": 4.0}, {"ray.io/node-id": "1"}),
                    Node("gpu-0", {"CPU": 8.0, "GPU": 4.0, "rollout": 2.0}, {"squall": "rollout"}))
    assert shortage(nodes, Demand("engine", 2, 1.0, 1.0, {"squall": "rollout"}, {"rollout": 1.0})) == ""
    assert shortage(nodes, Demand("engine", 1, 1.0, labels={"squall": "learner"})) == (
        "engine: no node is labelled squall=learner (there are head, gpu-0 labelled squall=rollout); start that worker group, "
        "or change placement.engine.labels")
    few = shortage(nodes, Demand("engine", 3, 1.0, 1.0, {"squall": "rollout"}, {"rollout": 1.0}))
    assert few.startswith("engine: nodes labelled squall=rollout have room for 2 of 3 x 1 CPU + 1 GPU + 1 rollout")


def test_a_range_takes_what_there_is_room_for() -> None:
    plan = ResourcePlan([Demand("engine", 2, 1.0, 1.0), Demand("learner worker", 4, 1.0, 1.0, least=1)])
    counts = [[d.count for d in plan.shrunk(gpus(*found)).demands] for found in ([8], [3, 1], [2, 1], [2])]
    assert counts == [[2, 4], [2, 2], [2, 1], [2, 4]]  # the last one is refused as a whole
    assert plan.lines()[1] == "learner worker: 4 x 1 CPU + 1 GPU, at least 1"


def test_plans_at_the_same_time_are_counted_by_node() -> None:
    assert ResourcePlan([Demand("engine", 1, 1.0, 3.0)]).fits(gpus(4, 4, 4)) == 3
    assert ResourcePlan([Demand("engine", 1, 1.0, 3.0)]).fits(ClusterResources(cpus=99, gpus=12)) == 4
