"""Nodes that Ray is told will go (`ray drain-node`, an autoscaler), and what a run does about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray

from squall.actors.cluster import draining_nodes

LOOK_S = 2.0
"""How often Ray is asked."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A node that will go."""

    node: str
    """Its name."""
    left_s: float
    """Seconds until then; infinity where nobody said."""
    needed: bool
    """Whether what lies there cannot be started elsewhere while the run goes on: its driver, a learner worker."""

    @property
    def sentence(self) -> str:
        left = "" if math.isinf(self.left_s) else f" in {max(0.0, self.left_s):.0f} s"
        return f"node {self.node} is being drained and will go{left}"


@dataclass(slots=True)
class DrainWatch:
    """Tells of every node once."""

    needed: Callable[[], set[str]]
    """Ids of the nodes with what cannot be started elsewhere, beside the driver's own."""
    _known: set[str] = field(default_factory=set)
    _next: float = 0.0

    def look(self) -> list[Drain]:
        """Nodes that are being drained and were not when this was last asked; Ray is asked every `LOOK_S` seconds."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + LOOK_S
        new = {node: left for node, left in draining_nodes().items() if node not in self._known}
        if not new:
            return []
        self._known |= new.keys()
        names = {entry["NodeID"]: f"{entry['NodeManagerHostname']} ({entry['NodeID'][:8]})" for entry in ray.nodes()}
        needed = self.needed() | {ray.get_runtime_context().get_node_id()}
        return [Drain(names.get(node, node[:8]), left, node in needed) for node, left in new.items()]
