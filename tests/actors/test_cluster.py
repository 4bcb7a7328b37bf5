from __future__ import annotations

import socket
import time

import cv2
import pytest
import ray

from squall.actors import cluster
from squall.actors.cluster import namespace_for, set_threads
from squall.actors.resources import ClusterResources, Demand, ResourcePlan
from squall.platform.errors import ResourceError, SquallError

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


def test_a_dead_address_is_told_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listened at: nobody else can take it
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(SquallError, match=f"no Ray cluster answers at {address} .*Connection refused.*; check ray_address"):
            cluster._connect(address)
    assert time.monotonic() - started < cluster.REACH_TIMEOUT_S


def test_another_ray_is_refused_with_both_versions() -> None:
    with pytest.raises(SquallError, match=f"cluster at head:6379 runs Ray 2.0.0 and this environment has {ray.__version__}"):
        cluster.check_version("head:6379", "2.0.0")


@pytest.mark.cluster
def test_a_head_tells_its_version(ray_cluster: ClusterResources) -> None:
    assert cluster._version_of_head(ray_cluster.address) == ray.__version__


@pytest.mark.cluster
def test_a_local_cluster_is_out_of_reach_for_other_machines(ray_cluster: ClusterResources):
    assert ray_cluster.address.startswith("127.0.0.1:")
    assert ray_cluster.cpus == 8
