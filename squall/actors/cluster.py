"""Joining or starting a Ray cluster, and checking that a plan fits on it before any actor starts."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import grpc
import ray
from ray._private import ray_constants

from squall.platform.errors import ResourceError, SquallError

WORKER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of every worker. Ray Train polls its workers once in 2 s by default; a short step would wait for it."""
REACH_TIMEOUT_S = 10.0

_starts = 0


@dataclass(frozen=True, slots=True)
class ClusterResources:
    """What the cluster has in all, busy or not."""

    cpus: float
    gpus: float
    address: str = ""
    dashboard_url: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """Actors of one role and what each reserves."""

    role: str
    count: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """Everything a job will reserve."""

    demands: Sequence[Demand]

    def lines(self) -> list[str]:
        """One line per role and one with the total."""
        roles = [f"{d.role}: {d.count} x {_amount(d.cpus, d.gpus)}" for d in self.demands]
        return [*roles, f"total: {_amount(self._total('cpus'), self._total('gpus'))}"]

    def check(self, available: ClusterResources) -> None:
        """Raise ResourceError, in one line, when the cluster can never hold the plan."""
        for kind, have in (("cpus", available.cpus), ("gpus", available.gpus)):
            need = self._total(kind)
            if need > have + 1e-6:
                raise ResourceError(self._explain(kind, need, have))

    def fits(self, available: ClusterResources) -> int:
        """How many such plans the cluster holds at the same time."""
        counts = [int((have + 1e-6) // self._total(kind)) for kind, have in (("cpus", available.cpus), ("gpus", available.gpus))
                  if self._total(kind) > 0]
        return min(counts, default=1)

    def _total(self, kind: str) -> float:
        return sum(demand.count * getattr(demand, kind) for demand in self.demands)

    def _explain(self, kind: str, need: float, have: float) -> str:
        takers = [demand for demand in self.demands if getattr(demand, kind) > 0]
        parts = ", ".join(f"{d.role} {d.count} x {getattr(d, kind):g}" for d in takers)
        largest = max(takers, key=lambda d: d.count * getattr(d, kind))
        lower = f"the count of '{largest.role}'" if largest.count > 1 else f"the {kind} of '{largest.role}'"
        return (f"plan needs {need:g} {kind[:-1].upper()}s ({parts}) but the cluster has {have:g}; "
                f"lower {lower} or join a larger cluster (ray_address)")


def _amount(cpus: float, gpus: float) -> str:
    text = f"{cpus:g} CPU" + ("" if cpus == 1 else "s")
    return text + (f" + {gpus:g} GPU" + ("" if gpus == 1 else "s") if gpus else "")


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
    global _starts
    if _starts == 0 and ray.is_initialized():  # by whoever runs this process, such as a trial of a sweep
        _starts = 1
    if not ray.is_initialized():
        target = address or os.environ.get("RAY_ADDRESS")
        _connect(target) if target else _start_local(num_cpus, dashboard)
    _starts += 1
    totals = ray.cluster_resources()
    context = ray.get_runtime_context()
    url = ray.worker.get_dashboard_url() or ""
    return ClusterResources(totals.get("CPU", 0.0), totals.get("GPU", 0.0), context.gcs_address, url)


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
