"""Victims on a cluster: processes that hold the same model, and one ledger of all that they were asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from squall.actors.cluster import namespace_for
from squall.actors.victim_client import VictimClient, VictimUnavailable, is_gone
from squall.actors.victim_config import VictimPoolConfig
from squall.actors.victim_core import PROBE
from squall.actors.victim_ledger import Tally, VictimLedger
from squall.actors.victim_sources import VictimSource
from squall.actors.victim_worker import LedgerKeeper, VictimWorker
from squall.platform.errors import SquallError, cause

__all__ = ["VictimClient", "VictimPool", "VictimPoolConfig", "VictimUnavailable"]

STOP_TIMEOUT_S = 30.0


class VictimPool:
    """Starts victims, hands out clients, and knows what they were asked."""

    def __init__(self, config: VictimPoolConfig, source: VictimSource, ledger: Path, run_id: str, *, name: str = "victim",
                 logs: Path | None = None) -> None:
        """`ledger` stands in the run's folder, which all nodes share. Errors as of `QueryLedger`.

        Args:
            name: of this victim among those of the run; each has its counters in a folder of that name beside the ledger.
            logs: folder that gets what the processes print.
        """
        self._config, self._source, self._ledger, self._run_id, self._logs = config, source, ledger, run_id, logs
        self._name, self._counts = name, ledger.parent / f"{name}-passes"
        self._workers: list[Any] = []
        self._actors: list[Any] = []
        self._books = VictimLedger(ledger, self._counts)
        self.processes: dict[str, int] = {}
        """Process ids at the start, by name; the ledger's among them."""

    def start(self) -> None:
        """Start all processes and try the model with a clip of noise.

        Raises:
            SquallError: one could not start, or not in time; or what the model returned for the clip (ConfigError, DataError).
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        namespace, keeper = namespace_for(self._run_id), f"{self._name}-ledger"
        self._books.settle()  # what an earlier run was killed over
        self._actors = [LedgerKeeper.options(name=keeper, namespace=namespace, num_cpus=0, scheduling_strategy=here).remote(
            self._ledger, self._counts)]
        self.processes[keeper] = self._call(self._actors[0].ready.remote(), keeper)
        self._workers = [
            VictimWorker.options(name=f"{self._name}-{number}", namespace=namespace, num_cpus=self._config.cpus,
                                 num_gpus=self._config.gpus, scheduling_strategy="DEFAULT").remote(
                f"{self._name}-{number}", self._source, self._config, (keeper, namespace), self._counts,
                self._logs and self._logs / f"{self._name}-{number}.log")
            for number in range(self._config.count)]
        self._actors += self._workers
        for number, reference in enumerate([worker.ready.remote() for worker in self._workers]):
            process, responder = self._call(reference, f"{self._name}-{number}")
            self.processes[f"{self._name}-{number}"] = process
            if not self._books.counts(responder):
                raise SquallError(f"{self._counts}: {self._name}-{number} counts elsewhere; `output` must be a folder that all "
                                  "nodes share")

    def client(self, purpose: str) -> VictimClient:
        """Whoever has it may ask; what it asks is counted under `purpose`."""
        return VictimClient(tuple(self._workers), self._source.classes, self._source.label, self._config.asking, purpose)

    def tally(self, purposes: Sequence[str] = ()) -> Tally:
        """What victims have done so far; `begun` and `entered` differ by what is in the models now, or was when one died."""
        return self._books.tally((PROBE, *purposes))

    def stop(self) -> None:
        """End all processes; what they have done is then in the ledger to the clip."""
        for actor in self._actors:
            ray.kill(actor)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not all(map(is_gone, self._actors)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._actors.clear()
        self._books.settle()

    def _call(self, reference: Any, what: str) -> Any:
        try:
            return ray.get(reference, timeout=self._config.startup_timeout_s)
        except RayError as error:
            root = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(root, SquallError):
                raise root from None
            see = "" if self._logs is None else f"; see {self._logs / what}.log"
            raise SquallError(f"victim {self._source.label}: {what} gave no answer: {cause(root)}{see}") from error
