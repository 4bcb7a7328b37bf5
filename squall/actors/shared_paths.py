"""Files that actors read where they lie: each node that may be given one of a role must have them, under the same paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from squall.actors.resources import ClusterResources, ResourcePlan
from squall.platform.errors import ConfigError, ResourceError, cause

Wanted = Mapping[str, Mapping[str, Sequence[Path]]]
"""Paths by the key of the configuration that they come from, by role."""


def check_paths(cluster: ClusterResources, plan: ResourcePlan, wanted: Wanted, timeout_s: float) -> None:
    """Ask every node that may be given an actor of a role, now or to replace a lost one, for the files of that role.

    Raises:
        ConfigError: one is missing somewhere; a single line names the key, the path, the node and what to do.
        ResourceError: a node does not answer.
    """
    for demand in plan.demands:
        for key, paths in wanted.get(demand.role, {}).items():
            able = [node for node in cluster.nodes if demand.room(node, node.amounts)]
            calls = {node.name: _missing.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
                     .remote([str(path) for path in paths]) for node in able}
            missing = {name: lacks for name, call in calls.items() if (lacks := _answer(name, call, timeout_s))}
            if missing:
                name, lacks = next(iter(missing.items()))
                also = f" (nor on {len(missing) - 1} more nodes)" if len(missing) > 1 else ""
                raise ConfigError(f"{key}: {lacks[0]} is not on node {name}{also}, where a {demand.role} reads it; put it in a "
                                  f"folder that every node sees under the same path, or keep {demand.role}s on nodes that have "
                                  f"it (placement.{demand.role.split()[0]}.labels)")


@ray.remote(num_cpus=0, max_retries=0)
def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _answer(name: str, call: ray.ObjectRef, timeout_s: float) -> list[str]:
    try:
        return ray.get(call, timeout=timeout_s)
    except RayError as error:
        raise ResourceError(f"node {name} did not say whether it has the run's files ({cause(error)})") from error
