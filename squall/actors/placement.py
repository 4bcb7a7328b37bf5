"""Where the actors of a run lie: one placement group a role, reserved as a whole before anything starts.

Engines and learner workers are packed onto few nodes, CPU workers spread over many; an actor lies whole on one node. Ray Train
makes the learner's group itself, so what is reserved for it here is given back just before. Groups live as long as their
driver: Ray removes them when it is killed.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from pydantic import Field, field_validator
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from squall.actors.cluster import cluster_resources, namespace_for
from squall.actors.resources import ClusterResources, Demand, ResourcePlan
from squall.platform.config import Config
from squall.platform.errors import ResourceError

LEARNER = "learner worker"
SPREAD = ("corruption worker", "reward worker")
"""Roles whose actors lie on as many nodes as there are: clips are decoded where there are CPUs, and a lost node takes few."""
LOOK_S = 0.5
OUTSIDE: Mapping[str, Any] = {"scheduling_strategy": "DEFAULT"}
"""Options of an actor without a group, out of that of a sweep's trial too, which is a driver's."""


class RolePlacement(Config):
    """Which nodes the actors of a role go on; any, by default."""

    labels: dict[str, str] = {}
    """Labels that a node must have, {squall: rollout}; `ray start --labels` and KubeRay's worker groups set them."""
    resources: dict[str, float] = {}
    """Custom resources that each actor takes beside its CPUs and GPUs, {rollout: 1}."""

    @field_validator("labels")
    @classmethod
    def _plain(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, value in labels.items():
            if not re.fullmatch(r"[\w./-]+", name) or not re.fullmatch(r"[\w.-]+", value):
                raise ValueError(f"'{name}: {value}' is no label: letters, digits, '_', '-' and '.', and '/' in its name")
        return labels

    @field_validator("resources")
    @classmethod
    def _own(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if name in ("CPU", "GPU", "memory") or amount <= 0:
                raise ValueError(f"'{name}: {amount:g}' is no custom resource: CPUs and GPUs are engine.cpus, learner.gpus and "
                                 "so on, and an amount is above 0")
        return resources


class PlacementConfig(Config):
    """On which nodes of a cluster the roles of a run lie, and what nodes must have."""

    timeout_s: float = Field(300.0, gt=0)
    """How long nodes of a cluster that was joined may take to come and to be free; past it the run ends and says what is
    missing. A cluster that the run starts itself cannot grow: there it ends at once."""
    node_timeout_s: float = Field(60.0, gt=0)
    """How long a node may take to say what it runs and how much room it has."""
    min_disk_gib: float = Field(0.5, ge=0)
    """Free space that every node must have for Ray's files and spilled objects; and the output, beside a checkpoint."""
    engine: RolePlacement = RolePlacement()
    """Rollout engines."""
    learner: RolePlacement = RolePlacement()
    """Learner workers."""
    corruption: RolePlacement = RolePlacement()
    """Corruption workers."""
    reward: RolePlacement = RolePlacement()
    """Reward workers."""
    judge: RolePlacement = RolePlacement()
    """A judge's own engines."""

    def tie(self, demands: Sequence[Demand]) -> list[Demand]:
        """Demands with the labels and custom resources of their roles."""
        return [replace(demand, labels=role.labels, resources=role.resources)
                if isinstance(role := getattr(self, demand.role.split()[0], None), RolePlacement) else demand
                for demand in demands]


class Placement:
    """Placement groups of a run. `reserve`; then `options` for each actor and `give_back` for the learner; then `remove`."""

    def __init__(self, run_id: str) -> None:
        self._name = namespace_for(run_id)
        self._groups: dict[str, PlacementGroup] = {}
        self._demands: dict[str, Demand] = {}

    def reserve(self, plan: ResourcePlan, cluster: ClusterResources, timeout_s: float,
                tell: Callable[[str], None] = lambda text: None) -> ResourcePlan:
        """Reserve a plan; returns it with the numbers that a range has come to.

        Args:
            tell: hears what is waited for.

        Raises:
            ResourceError: the cluster cannot hold the plan or, where nodes can join, does not in time. Nothing stays reserved.
        """
        plan = plan.shrunk(cluster)
        waiting = f"waiting up to {timeout_s:.0f} s (placement.timeout_s) for nodes: "
        if told := plan.shortage(cluster):
            if cluster.started_here:
                raise ResourceError(told)
            tell(waiting + told)
        deadline = time.monotonic() + timeout_s
        try:
            plan = self._await_room(plan, deadline)
            for demand in plan.hardest_first():  # one after the other, lest what may go anywhere takes another's only place
                self._ask(demand)
                while not self._groups[demand.role].wait(LOOK_S):
                    if not told and (told := plan.shortage(cluster_resources())):  # a node went that seemed to be there
                        tell(waiting + told)
                    if time.monotonic() > deadline:
                        raise ResourceError(f"{self._why(demand, plan)}; waited {timeout_s:.0f} s (placement.timeout_s)")
        except BaseException:
            self.remove()
            raise
        return plan

    def _await_room(self, plan: ResourcePlan, deadline: float) -> ResourcePlan:
        """The plan once there is room, or when the time is up. The groups are asked for first where nodes have to come, because
        that is what an autoscaler goes by."""
        if not plan.shortage(cluster_resources()):
            return plan
        for demand in plan.hardest_first():
            self._ask(demand)
        while plan.shrunk(cluster_resources()).shortage(cluster_resources()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        self.remove()
        return plan.shrunk(cluster_resources())

    def _ask(self, demand: Demand) -> None:
        self._demands[demand.role] = demand
        self._groups[demand.role] = placement_group(
            [dict(demand.amounts)] * demand.count, "SPREAD" if demand.role in SPREAD else "PACK",
            name=f"{self._name}/{demand.role}",
            bundle_label_selector=[dict(demand.labels)] * demand.count if demand.labels else None)

    def _why(self, demand: Demand, plan: ResourcePlan) -> str:
        """Why a role's group is not there."""
        if shortage := plan.shortage(cluster_resources()):
            return shortage
        free = ray.available_resources()
        left = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in demand.amounts)
        return (f"{demand.role}: {demand.count} x {demand.each} are not free: the cluster is large enough and others hold "
                f"it; left are {left}. Wait for them, or see `squall jobs`")

    def options(self, role: str, number: int) -> dict[str, Any]:
        """Options under which actor `number` of a role takes its place; those of one without a group where none is reserved."""
        if role not in self._groups:
            return dict(OUTSIDE)
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._groups[role], number),
                "resources": dict(self._demands[role].resources)}

    def give_back(self, role: str) -> Demand | None:
        """Free a role's places, because who starts it reserves them anew; returns what they were for."""
        group = self._groups.pop(role, None)
        if group is not None:
            remove_placement_group(group)
        return self._demands.get(role)

    def nodes_of(self, role: str) -> Counter[str]:
        """How many of a role's places lie on each node, by its id."""
        if role not in self._groups:
            return Counter()
        return Counter(placement_group_table(self._groups[role])["bundles_to_node_id"].values())

    def remove(self) -> None:
        """Free everything."""
        for role in tuple(self._groups):
            self.give_back(role)
