"""Joining or starting a Ray cluster, and what is found there."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import grpc
import ray
from ray._private import ray_constants

from squall.actors.resources import ClusterResources, Node
from squall.platform.errors import SquallError

WORKER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of every worker. Ray Train polls its workers once in 2 s by default; a short step would wait for it."""
REACH_TIMEOUT_S = 10.0
OWN_RESOURCES = ("node:", "memory", "object_store_memory")
"""What Ray counts on every node beside what it was started with."""

_starts = 0
_started_here = False


def start_ray(address: str | None = None, num_cpus: float | None = None, dashboard: bool = False) -> ClusterResources:
    """Join the cluster at `address` or RAY_ADDRESS, or start one on this machine that only loopback can reach.

    Nested calls share one connection; `stop_ray` undoes one call. A local cluster runs without token authentication
    unless RAY_AUTH_MODE says otherwise: nothing outside the machine reaches it, and Ray would write a token into the
    user's home. On another cluster RAY_AUTH_MODE stays as it is.

    Args:
        num_cpus: CPUs that a local cluster offers; by default those of the machine.
        dashboard: serve Ray's dashboard from a local cluster.

    Raises:
        SquallError: the cluster does not answer.
    """
    global _starts, _started_here
    if _starts == 0 and ray.is_initialized():  # by whoever runs this process, such as a trial of a sweep
        _starts = 1
    if not ray.is_initialized():
        target = address or os.environ.get("RAY_ADDRESS")
        _connect(target) if target else _start_local(num_cpus, dashboard)
        _started_here = not target
    _starts += 1
    return cluster_resources()


def cluster_resources() -> ClusterResources:
    """What the cluster has this moment; nodes that are being drained do not count."""
    nodes = live_nodes()
    cpus, gpus = (sum(node.amounts.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    url = ray.worker.get_dashboard_url() or ""
    return ClusterResources(cpus, gpus, ray.get_runtime_context().gcs_address, url, nodes, _started_here)


def live_nodes() -> tuple[Node, ...]:
    """The nodes that may be given work, by name."""
    drained = draining_nodes()
    found = [Node(f"{entry['NodeManagerHostname']} ({entry['NodeID'][:8]})",
                  {name: amount for name, amount in entry["Resources"].items() if not name.startswith(OWN_RESOURCES)},
                  entry["Labels"], entry["NodeID"], entry["Resources"].get("object_store_memory", 0.0))
             for entry in ray.nodes() if entry["Alive"] and entry["NodeID"] not in drained]
    return tuple(sorted(found, key=lambda node: node.name))


def draining_nodes() -> dict[str, float]:
    """Ids of the nodes that Ray is told will go, with the seconds that are left to each; infinity where nobody said."""
    now = 1000 * time.time()
    return {node: (deadline - now) / 1000 if deadline else math.inf
            for node, deadline in ray._private.state.state.get_draining_nodes().items()}


def _connect(address: str) -> None:
    if re.fullmatch(r"[^/]+:\d+", address):
        check_version(address, _version_of_head(address))
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_runtime_env())
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_answer(address, " ".join(str(error).split())[:200]) from error


def _version_of_head(address: str) -> str:
    """Ray's version at a cluster's head. `ray.init` would try a dead address for minutes, and print a warning each time."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with init_grpc_channel(address, ray_constants.GLOBAL_GRPC_OPTIONS) as channel:
        head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            return head.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=REACH_TIMEOUT_S).ray_version
        except grpc.RpcError as error:
            raise _no_answer(address, str(error.details()).rpartition("remote host: ")[2]) from error


def _no_answer(address: str, reason: str) -> SquallError:
    return SquallError(f"no Ray cluster answers at {address} ({reason}); check ray_address and RAY_ADDRESS, and that "
                       "RAY_AUTH_MODE and the token are the cluster's")


def check_version(address: str, version: str) -> None:
    """Raise SquallError when a cluster's Ray is not this environment's, which it must be to the last digit."""
    if version != ray.__version__:
        raise SquallError(f"the cluster at {address} runs Ray {version} and this environment has {ray.__version__}; jobs need "
                          "the same on both sides: install the cluster's here, or point at another cluster")


def _start_local(num_cpus: float | None, dashboard: bool) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray turns a loopback address into the machine's outer one and listens on every interface. This is the switch that
    # it has for laptops where a firewall would ask; without it anyone on the network could run code here.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=dashboard, dashboard_host="127.0.0.1",
             log_to_driver=False, logging_level=logging.ERROR, runtime_env=_runtime_env())


def _runtime_env() -> dict[str, dict[str, str]]:
    environment = dict(WORKER_ENVIRONMENT)
    if not _has_cuda():
        environment["DS_ACCELERATOR"] = "cpu"
    return {"env_vars": {name: os.environ.get(name, value) for name, value in environment.items()}}


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def stop_ray() -> None:
    """Undo one `start_ray`; the last one leaves the cluster, or ends it where it was started here."""
    global _starts
    _starts = max(0, _starts - 1)
    if _starts == 0:
        ray.shutdown()


def set_threads(cpus: float) -> int:
    """Give torch, OpenCV and OpenMP as many threads as the actor has CPUs, at least 1. Returns that number."""
    count = max(1, int(cpus))
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    import cv2

    cv2.setNumThreads(count)
    if "torch" in sys.modules:  # otherwise it reads the variable when it loads
        sys.modules["torch"].set_num_threads(count)
    return count


def enter_worker(import_path: str, threads: int) -> None:
    """Set threads, and make the folder that the job was started in importable, as it is for `python -m`."""
    set_threads(threads)
    if import_path not in sys.path:
        sys.path.insert(0, import_path)


@contextmanager
def outside_placement_group() -> Iterator[None]:
    """Actors that are created inside the block stay out of the placement group of the sweep's trial that this process may be,
    which has room for a driver alone. Where an actor is created here, `scheduling_strategy="DEFAULT"` says the same; a library
    that creates some itself, such as RLlib, has no switch for it."""
    name = "get_current_placement_group"
    modules = [import_module(where) for where in ("ray.util", "ray.util.placement_group")]  # libraries ask one, Ray the other
    current = getattr(modules[0], name)
    try:
        for module in modules:
            setattr(module, name, lambda: None)
        yield
    finally:
        for module in modules:
            setattr(module, name, current)


def namespace_for(run_id: str) -> str:
    """Namespace of a run's named actors: two runs on one cluster do not see each other's."""
    return f"squall-{run_id}"
