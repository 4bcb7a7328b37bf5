"""A process that is in the middle of several attacks on clips."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import ray

from squall.actors.clip_attack_tasks import Assault, Attack, ClipTask, HeldOut, Struck, Victims, strike
from squall.actors.cluster import enter_worker
from squall.actors.logs import keep_log

if TYPE_CHECKING:
    from squall.algorithms.video_attack.policy import AttackerPolicy


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1})
class ClipAttacker:
    """Attacks in threads of their own, one a task. It keeps nothing but the policies that it has loaded: a task gives the same,
    whichever process runs it and how often."""

    def __init__(self, cpus: float, import_path: str, log: Path | None = None) -> None:
        """`import_path` is the folder that distortions of the user's own are imported from."""
        keep_log(log)
        enter_worker(import_path, max(1, int(cpus)))
        self._policies: dict[Path, AttackerPolicy] = {}
        self._lock = Lock()

    @ray.method(concurrency_group="health")
    def ready(self) -> int:
        """Returns the process id once the worker is up."""
        return os.getpid()

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Returns the process id, while attacks are under way too."""
        return os.getpid()

    def run(self, task: ClipTask, held_out: HeldOut, victims: Victims) -> Struck:
        """Run a task. Errors as of `strike`, and as of `load_attacker`."""
        return strike(self._attack(task.assault), task, held_out, victims)

    def _attack(self, assault: Assault) -> Attack:
        if assault.control is not None:
            return assault.control
        from squall.actors.attackers import load_attacker  # torch is for those who need it
        from squall.algorithms.video_attack.learned import Learned

        assert assault.policy is not None
        with self._lock:
            if assault.policy not in self._policies:
                self._policies[assault.policy] = load_attacker(assault.policy)
        return Learned(self._policies[assault.policy], assault.greedy)
