"""A group of Ray Train workers that obeys commands: the driver's handle on a learner, whatever it learns.

Every worker runs the same loop: take a command from the `RolloutBuffer`, do this rank's share, report, repeat.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from squall.actors.cluster import live_nodes
from squall.actors.resources import Demand
from squall.actors.rollout_buffer import RolloutBuffer, Save
from squall.actors.run_files import RunFiles
from squall.platform.errors import SquallError, cause

NODE_LOSS_S = 30.0
"""By then Ray has noticed that a node is gone."""


class GroupConfig(Protocol):
    """What a worker group reads from its learner's configuration."""

    @property
    def workers(self) -> int: ...
    @property
    def cpus(self) -> float: ...
    @property
    def gpus(self) -> float: ...
    @property
    def start_timeout_s(self) -> float: ...
    @property
    def step_timeout_s(self) -> float: ...


class LearnerLost(SquallError):
    """A learner worker went with its process or its node; the run can go on from a checkpoint."""

    run: Path | None = None
    """Directory of the run, once that has ended because of it."""


def was_lost(failure: BaseException) -> bool:
    """Whether a learner failed because a process, a node or what lay there went, and not by an error of its own code."""
    from ray.train import WorkerGroupError

    if not isinstance(failure, WorkerGroupError):
        return False
    reasons = [getattr(reason, "health_check_failure", reason) for reason in failure.worker_failures.values()]
    roots = [reason.cause if isinstance(reason, RayTaskError) else reason for reason in reasons]
    return any(isinstance(root, (RayActorError, ObjectLostError)) for root in roots)


def trainer_class() -> type[Any]:
    """Ray's TorchTrainer without the helper that watches over its placement group.

    The helper asks the first Ray dashboard of the machine that it finds whether the controller lives. That may be another
    cluster's, which knows no such actor, and the helper removes the placement group of a run that is well. The end of a job
    frees it anyhow.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [callback for callback in super()._create_default_callbacks()
                    if not isinstance(callback, PlacementGroupCleanerCallback)]

    return Trainer


class WorkerGroup:
    """`start`, or `launch` and `wait`; then `ask`, or `send` and `poll`, in order; then `stop`."""

    def __init__(self, config: GroupConfig, loop: Callable[[dict[str, Any]], None], loop_config: Mapping[str, Any],
                 run_path: Path) -> None:
        """`loop` runs on every worker and gets `loop_config` with ``buffer``, ``files`` and ``logs`` added."""
        self.config = config
        # Beside the driver: with any other node the run can go on, or be gone on with, when it goes.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._buffer = RolloutBuffer.options(scheduling_strategy=beside).remote(capacity=1, readers=config.workers)
        self._index = 0
        self._failure: BaseException | None = None
        self._place: Demand | None = None
        self._loop = loop
        self._files = RunFiles.of(run_path.absolute(), served=len(live_nodes()) > 1)
        self._loop_config = {**loop_config, "buffer": self._buffer, "files": self._files, "logs": run_path.absolute() / "logs"}
        self._awaited: tuple[Any, str, float] | None = None
        self._run_path = run_path
        self._thread = threading.Thread(target=self._fit, name="learner", daemon=True)

    def start(self, place: Demand | None = None) -> dict[str, Any]:
        """`launch` and `wait`."""
        self.launch(place)
        return self.wait()

    def launch(self, place: Demand | None = None) -> None:
        """Start the workers, without waiting for them.

        Args:
            place: what was planned for them, with labels and custom resources.
        """
        self._place = place
        self._thread.start()
        self._expect(-1, self.config.start_timeout_s, "loading the model")

    def wait(self) -> dict[str, Any]:
        """Wait until every worker has loaded the model, for `start_timeout_s` from now; returns what rank 0 says of it."""
        reference, phase, _ = self._awaited
        self._awaited = (reference, phase, time.monotonic() + self.config.start_timeout_s)
        return self._wait()

    def nodes(self) -> set[str]:
        """Ids of the nodes on which the workers lie; a worker that is lost ends the run, and no other takes its place."""
        return ray.get(self._buffer.nodes.remote(), timeout=self.config.step_timeout_s)

    def poll(self, timeout_s: float = 0.5) -> dict[str, Any] | None:
        """What came of a command once it is done, None after `timeout_s` seconds without an answer."""
        reference, phase, deadline = self._awaited
        done, _ = ray.wait([reference], timeout=timeout_s)
        if done:
            self._awaited = None
            try:
                return ray.get(reference)
            except RayError as error:
                raise SquallError(f"learner: the rollout buffer is gone while {phase}: {cause(error)}") from error
        if self._failure is not None:
            kind = LearnerLost if was_lost(self._failure) or self._lost_a_node() else SquallError
            raise kind(f"learner failed while {phase}: {cause(self._failure)}; see {self._run_path}/logs/learner-*.log, or "
                       "Ray's logs of its node") from self._failure
        if time.monotonic() > deadline:
            raise SquallError(f"learner: no answer in time while {phase}; {self._clue()}, or raise learner.step_timeout_s or "
                              "learner.start_timeout_s")
        return None

    def ask(self, command: Any, phase: str) -> dict[str, Any]:
        """Give a command and wait for what comes of it; `phase` says in errors what was going on."""
        self.send(command, phase)
        return self._wait()

    def send(self, command: Any, phase: str) -> None:
        """Give a command; `poll` says when it is done. Nothing else may be asked of the group until then."""
        try:
            ray.get(self._buffer.put.remote(self._index, command), timeout=self.config.step_timeout_s)
        except RayError as error:
            raise SquallError(f"learner: the rollout buffer is gone or full before {phase}: {cause(error)}") from error
        self._expect(self._index, self.config.step_timeout_s, phase)
        self._index += 1

    def save(self, directory: Path) -> None:
        """Write a checkpoint of weights and optimiser into an existing directory."""
        self.ask(Save(str(directory)), f"writing {directory}")

    @property
    def idle(self) -> bool:
        """Whether the group lives and nothing is asked of it."""
        return self._awaited is None and self._failure is None and self._thread.is_alive()

    def stop(self) -> None:
        """Let the workers leave their loop and wait for Ray Train to finish."""
        if self._thread.is_alive() and self._awaited is None:
            with suppress(RayError):
                ray.get(self._buffer.put.remote(self._index, None), timeout=10)
                self._thread.join(timeout=60)
        ray.kill(self._buffer)
        self._files.close()

    def _expect(self, index: int, timeout_s: float, phase: str) -> None:
        self._awaited = (self._buffer.result.remote(index), phase, time.monotonic() + timeout_s)

    def _clue(self) -> str:
        """Where to look for why the workers do not answer."""
        if any(self._run_path.glob("logs/learner-*.log")):
            return f"see {self._run_path}/logs/learner-*.log"
        return ("no worker has begun a log here: another run may have taken their place (squall jobs), or they log elsewhere, "
                "see Ray's logs of their nodes")

    def _wait(self) -> dict[str, Any]:
        while (result := self.poll()) is None:
            pass
        return result

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        place = self._place or Demand("learner worker", self.config.workers, self.config.cpus, self.config.gpus)
        trainer = trainer_class()(
            self._loop, train_loop_config=self._loop_config,
            scaling_config=ScalingConfig(num_workers=self.config.workers, use_gpu=self.config.gpus > 0,
                                         resources_per_worker=place.amounts, placement_strategy="PACK",
                                         label_selector=dict(place.labels) or None),
            run_config=RunConfig(name="learner", storage_path=str(self._storage()),
                                 failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except BaseException as error:  # handed to the driver's thread, which raises it
            self._failure = error

    def _lost_a_node(self) -> bool:
        """Whether a node with a worker has gone. The others' collective fails before Ray notices that."""
        if len(nodes := self.nodes()) < 2:
            return False
        deadline = time.monotonic() + NODE_LOSS_S
        while time.monotonic() < deadline:
            if nodes - {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                return True
            time.sleep(1.0)
        return False

    def _storage(self) -> Path:
        """Where Ray Train leaves its mark, on every node with a worker: the run's own folder may not be possible there."""
        if self._files.keeper is None:
            return self._run_path.resolve()
        return Path(tempfile.gettempdir()) / f"squall-train-{os.getuid()}" / f"{self._run_path.name}-{self._files.mark[:8]}"
