"""What a job reserves, what nodes have, and whether the one fits on the other: each actor whole on one node.

Arithmetic alone: nothing here asks a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from squall.platform.errors import ResourceError

TOLERANCE = 1e-6
MOST_LOOKS = 20_000
"""Partial placements looked at before a plan that is hard to place is left to Ray."""
MOST_DEPTH = 400


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is up."""

    name: str
    amounts: Mapping[str, float]
    """What it has in all, busy or not, by Ray's names: CPU, GPU, custom resources."""
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    object_store_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterResources:
    """What the cluster has in all, busy or not."""

    cpus: float
    gpus: float
    address: str = ""
    dashboard_url: str = ""
    nodes: tuple[Node, ...] = ()
    """Its nodes; none where only totals are known."""
    started_here: bool = False
    """Whether it is this process's own, which no further node can join."""


@dataclass(frozen=True)
class Demand:
    """Actors of one role and what each reserves."""

    role: str
    count: int
    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have to be given one."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources that each takes beside."""
    least: int | None = None
    """As few are enough where there is no room for `count`."""

    @cached_property
    def amounts(self) -> dict[str, float]:
        """What each takes, by Ray's names; what is 0 is left out."""
        every = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in every.items() if amount > 0}

    def room(self, node: Node, free: Mapping[str, float]) -> int:
        """How many go on a node that has so much left; 0 where its labels are others."""
        if any(node.labels.get(name) != value for name, value in self.labels.items()):
            return 0
        return min((int((free.get(name, 0.0) + TOLERANCE) // amount) for name, amount in self.amounts.items()),
                   default=self.count)

    @property
    def each(self) -> str:
        """What each takes, in words."""
        text = amount(self.cpus, self.gpus)
        return text + "".join(f" + {amount:g} {name}" for name, amount in self.resources.items())


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """Everything a job will reserve."""

    demands: Sequence[Demand]

    def lines(self) -> list[str]:
        """One line per role and one with the total."""
        roles = [f"{d.role}: {d.count} x {d.each}{_tied(d)}{'' if d.least is None else f', at least {d.least}'}"
                 for d in self.demands]
        return [*roles, f"total: {amount(self._total('cpus'), self._total('gpus'))}"]

    def check(self, available: ClusterResources) -> None:
        """Raise ResourceError, in one line, when the cluster can never hold the plan."""
        if shortage := self.shortage(available):
            raise ResourceError(shortage)

    def shortage(self, available: ClusterResources) -> str:
        """What is missing, for which role and where, as one line; empty when there is room for all."""
        for kind, have in (("cpus", available.cpus), ("gpus", available.gpus)):
            need = self._total(kind)
            if need > have + TOLERANCE:
                return self._explain(kind, need, have)
        if not available.nodes:
            return ""
        for demand in self.demands:
            if shortage := _alone(demand, available.nodes):
                return shortage
        return self._together(available.nodes)

    def shrunk(self, available: ClusterResources) -> ResourcePlan:
        """This plan with as many of what has a `least` as there is room for; as it is where not even those fit."""
        for number, demand in enumerate(self.demands):
            for count in range(demand.count, (demand.least or demand.count) - 1, -1):
                tried = ResourcePlan((*self.demands[:number], replace(demand, count=count), *self.demands[number + 1:]))
                if not tried.shortage(available):
                    return tried
        return self

    def hardest_first(self) -> list[Demand]:
        """The demands in the order in which they are best given their places: those that few nodes can hold first."""
        taking = (demand for demand in self.demands if demand.count and demand.amounts)
        return sorted(taking, key=lambda demand: (bool(demand.labels), demand.gpus, demand.cpus), reverse=True)

    def fits(self, available: ClusterResources) -> int:
        """How many such plans the cluster holds at the same time."""
        have = {"cpus": available.cpus, "gpus": available.gpus}
        counts = [int((amount + TOLERANCE) // self._total(kind)) for kind, amount in have.items() if self._total(kind) > 0]
        most = min(counts, default=1)
        while most > 1 and ResourcePlan([replace(d, count=d.count * most) for d in self.demands]).shortage(available):
            most -= 1
        return most

    def _total(self, kind: str) -> float:
        return sum(demand.count * getattr(demand, kind) for demand in self.demands)

    def _explain(self, kind: str, need: float, have: float) -> str:
        takers = [demand for demand in self.demands if getattr(demand, kind) > 0]
        parts = ", ".join(f"{d.role} {d.count} x {getattr(d, kind):g}" for d in takers)
        largest = max(takers, key=lambda d: d.count * getattr(d, kind))
        lower = f"the count of '{largest.role}'" if largest.count > 1 else f"the {kind} of '{largest.role}'"
        return (f"plan needs {need:g} {kind[:-1].upper()}s ({parts}) but the cluster has {have:g}; "
                f"lower {lower} or join a larger cluster (ray_address)")

    def _together(self, nodes: Sequence[Node]) -> str:
        """What is missing where every role has room alone."""
        order = self.hardest_first()
        free = [dict(node.amounts) for node in nodes]
        for demand in order:
            left = demand.count
            for node, have in sorted(zip(nodes, free, strict=True), key=lambda pair: demand.room(*pair)):
                taken = min(left, demand.room(node, have))
                _take(have, demand, taken)
                left -= taken
            if left:
                break
        else:
            return ""
        if _search(order, nodes, [dict(node.amounts) for node in nodes]) is not False:
            return ""
        placed = ", ".join(f"{d.role} {d.count} x {d.each}" for d in order[:order.index(demand)])
        return (f"{demand.role}: {demand.count - left} of {demand.count} x {demand.each}{_tied(demand)} fit beside "
                f"{placed or 'each other'} on the {len(nodes)} nodes, although there is enough in all; left are "
                f"{_left(demand, nodes, free)}: each must lie on one node. Lower the count of '{demand.role}', or add a node")


def _alone(demand: Demand, nodes: Sequence[Node]) -> str:
    """What a role lacks were it alone."""
    rooms = [demand.room(node, node.amounts) for node in nodes]
    if sum(rooms) >= demand.count:
        return ""
    tied = [node for node in nodes if all(node.labels.get(name) == value for name, value in demand.labels.items())]
    if not tied:
        return (f"{demand.role}: no node is labelled {_labels(demand)} (there are {_names(nodes)}); start that worker group, "
                f"or change placement.{demand.role.split()[0]}.labels")
    scarce = min(demand.amounts, key=lambda name: max(node.amounts.get(name, 0.0) / demand.amounts[name] for node in tied))
    if not any(rooms):
        best = max(tied, key=lambda node: node.amounts.get(scarce, 0.0))
        total = _of(scarce, sum(node.amounts.get(scarce, 0.0) for node in tied))
        return (f"{demand.role}: no node{_tied(demand)} has the {_of(scarce, demand.amounts[scarce])} that one takes; "
                f"{best.name} has the most, {best.amounts.get(scarce, 0.0):g}, of {len(tied)} nodes with {total} in all; lower "
                f"what a '{demand.role}' takes, or add a larger node")
    return (f"{demand.role}: nodes{_tied(demand)} have room for {sum(rooms)} of {demand.count} x {demand.each} "
            f"({_left(demand, tied, [node.amounts for node in tied])}); lower the count of '{demand.role}', or add a node")


def _search(order: Sequence[Demand], nodes: Sequence[Node], free: list[dict[str, float]]) -> bool | None:
    """Whether demands fit, by trying; None where that would take too long to know."""
    if len(order) * len(nodes) > MOST_DEPTH:
        return None
    looks = iter(range(MOST_LOOKS))

    def place(role: int, number: int, left: int) -> bool | None:
        if left == 0:
            return True if role + 1 == len(order) else place(role + 1, 0, order[role + 1].count)
        if number == len(nodes):
            return False
        if next(looks, None) is None:
            return None
        demand = order[role]
        for count in range(min(left, demand.room(nodes[number], free[number])), -1, -1):
            _take(free[number], demand, count)
            found = place(role, number + 1, left - count)
            _take(free[number], demand, -count)
            if found is not False:
                return found
        return False

    return place(0, 0, order[0].count)


def _take(free: dict[str, float], demand: Demand, count: int) -> None:
    for name, amount in demand.amounts.items():
        free[name] = free.get(name, 0.0) - count * amount


def _left(demand: Demand, nodes: Sequence[Node], free: Sequence[Mapping[str, float]]) -> str:
    names = [name for name in ("GPU", "CPU", *demand.resources) if name in demand.amounts]
    shown = [f"{node.name} {' + '.join(_of(name, have.get(name, 0.0)) for name in names)}"
             for node, have in zip(nodes, free, strict=True)]
    return _short(shown)


def _names(nodes: Sequence[Node]) -> str:
    return _short([f"{node.name}{f' labelled {own}' if (own := _pairs(node.labels)) else ''}" for node in nodes])


def _short(parts: Sequence[str], most: int = 4) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _tied(demand: Demand) -> str:
    return f" labelled {_labels(demand)}" if demand.labels else ""


def _labels(demand: Demand) -> str:
    return _pairs(demand.labels)


def _pairs(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items() if not name.startswith("ray.io/"))


def _of(name: str, amount: float) -> str:
    amount = round(amount, 4)
    return f"{amount:g} {name}" + ("s" if name in ("CPU", "GPU") and amount != 1 else "")


def amount(cpus: float, gpus: float = 0.0) -> str:
    """CPUs and GPUs in words."""
    return _of("CPU", cpus) + (f" + {_of('GPU', gpus)}" if gpus else "")
