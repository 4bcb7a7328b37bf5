"""Processes that attack clips of a victim, which is asked in processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from pydantic import Field

from squall.actors.clip_attack_tasks import ClipTask, HeldOut, Victims
from squall.actors.clip_attack_worker import ClipAttacker
from squall.actors.cluster import namespace_for
from squall.actors.resources import Demand
from squall.actors.supervisor import Worker
from squall.actors.task_pool import TaskPool
from squall.actors.victim_client import VictimUnavailable
from squall.platform.config import Config

ROLE = "attack"


class ClipAttackersConfig(Config):
    """Processes that attack clips."""

    count: int = Field(2, ge=1)
    """Processes; the victim has its own."""
    cpus: float = Field(0.5, gt=0)
    """CPUs that Ray reserves for each: most of the time they wait for the victim."""
    clips_at_once: int = Field(4, ge=1)
    """Attacks that each of them is in the middle of: the victim answers several in one batch."""
    startup_timeout_s: float = Field(300.0, gt=0)
    """How long the processes may take to start."""
    clip_timeout_s: float = Field(14400.0, gt=0)
    """How long one attack on one clip may take. Before that its process is asked whether it lives, and replaced if not; past it
    the run stops."""
    max_attempts: int = Field(3, ge=1)
    """How often an attack on a clip is tried when its process dies or the victim cannot be reached, before it is given up,
    counted and reported."""
    examples: int = Field(3, ge=0)
    """Clips to keep of each attack: the first that its first seed fooled."""

    @property
    def demand(self) -> Demand:
        """What the processes reserve on the cluster."""
        return Demand(ROLE, self.count, self.cpus)


class ClipAttackPool(TaskPool):
    """Runs `ClipTask`s on the same clips and victims."""

    role = ROLE
    late = "lower max_queries, or raise clip_timeout_s of the attacking processes"
    unavailable = (VictimUnavailable,)

    def __init__(self, config: ClipAttackersConfig, held_out: HeldOut, victims: Victims, run_id: str, logs: Path | None = None
                 ) -> None:
        """Nothing is started."""
        super().__init__(config.clip_timeout_s, config.max_attempts, config.startup_timeout_s, logs, config.clips_at_once)
        self._config, self._held_out, self._victims, self._run_id, self._logs = config, held_out, victims, run_id, logs
        self._shared: Any = None

    def start(self) -> None:
        """Start all processes and wait for them. Raises SquallError where one could not start, or not in time."""
        self._shared = ray.put(self._held_out)
        namespace, cpus = namespace_for(self._run_id), self._config.cpus
        self._watch(
            ClipAttacker.options(name=f"{ROLE}-{number}", namespace=namespace, num_cpus=cpus, scheduling_strategy="DEFAULT",
                                 max_concurrency=self._config.clips_at_once).remote(
                cpus, str(Path.cwd()), self._logs and self._logs / f"{ROLE}-{number}.log")
            for number in range(self._config.count))

    def _send(self, worker: Worker, task: ClipTask) -> Any:
        return worker.actor.run.remote(task, self._shared, self._victims)
