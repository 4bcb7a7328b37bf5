from __future__ import annotations

import cv2
import pytest

from squall.actors.cluster import ClusterResources, Demand, ResourcePlan, namespace_for, set_threads
from squall.platform.errors import ResourceError

PLAN = ResourcePlan((Demand("engine", 2, 1.0), Demand("learner worker", 1, 1.5)))


def test_a_plan_that_does_not_fit_says_what_needs_what():
    with pytest.raises(ResourceError) as refused:
        PLAN.check(ClusterResources(cpus=2, gpus=0))
    assert str(refused.value) == (
        "plan needs 3.5 CPUs (engine 2 x 1, learner worker 1 x 1.5) but the cluster has 2; lower the count of 'engine' "
        "or join a larger cluster (ray_address)")


def test_missing_gpus_are_named():
    with pytest.raises(ResourceError, match=r"plan needs 1 GPUs \(engine 1 x 1\) but the cluster has 0"):
        ResourcePlan((Demand("engine", 1, 1.0, 1.0),)).check(ClusterResources(cpus=8, gpus=0))


def test_a_plan_that_fits_exactly_is_accepted():
    PLAN.check(ClusterResources(cpus=3.5, gpus=0))


def test_lines_name_every_role_and_the_total():
    assert PLAN.lines() == ["engine: 2 x 1 CPU", "learner worker: 1 x 1.5 CPUs", "total: 3.5 CPUs"]


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.9, 1), (2.0, 2)])
def test_threads_follow_the_cpu_share(cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    before = cv2.getNumThreads()
    try:
        assert set_threads(cpus) == threads
        assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)


def test_runs_have_namespaces_of_their_own():
    assert namespace_for("a") == "squall-a" != namespace_for("b")


@pytest.mark.cluster
def test_a_local_cluster_is_out_of_reach_for_other_machines(ray_cluster: ClusterResources):
    assert ray_cluster.address.startswith("127.0.0.1:")
    assert ray_cluster.cpus == 8
