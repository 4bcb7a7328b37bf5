"""A group of Ray Train workers that obeys commands: the driver's handle on a learner, whatever it learns.

Every worker runs the same loop: take a command from the `RolloutBuffer`, do this rank's share, report, repeat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from squall.actors.rollout_buffer import RolloutBuffer, Save
from squall.platform.errors import SquallError, cause


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
    """`start`; then `ask`, or `send` and `poll`, in order; then `stop`."""

    def __init__(self, config: GroupConfig, loop: Callable[[dict[str, Any]], None], loop_config: Mapping[str, Any],
                 run_path: Path) -> None:
        """`loop` runs on every worker and gets `loop_config` with ``buffer`` and ``logs`` added."""
        self.config = config
        self._buffer = RolloutBuffer.remote(capacity=1, readers=config.workers)
        self._index = 0
        self._failure: BaseException | None = None
        self._loop = loop
        self._loop_config = {**loop_config, "buffer": self._buffer, "logs": run_path.absolute() / "logs"}
        self._awaited: tuple[Any, str, float] | None = None
        self._run_path = run_path
        self._thread = threading.Thread(target=self._fit, name="learner", daemon=True)

    def start(self) -> dict[str, Any]:
        """Start the workers and wait until every one has loaded the model; returns what rank 0 says of it."""
        self._thread.start()
        self._expect(-1, self.config.start_timeout_s, "loading the model")
        return self._wait()

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
            raise SquallError(f"learner failed while {phase}: {cause(self._failure)}; see "
                              f"{self._run_path}/logs/learner-*.log") from self._failure
        if time.monotonic() > deadline:
            raise SquallError(f"learner: no answer in time while {phase}; see {self._run_path}/logs/learner-*.log, or raise "
                              "learner.step_timeout_s or learner.start_timeout_s")
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

    def _expect(self, index: int, timeout_s: float, phase: str) -> None:
        self._awaited = (self._buffer.result.remote(index), phase, time.monotonic() + timeout_s)

    def _wait(self) -> dict[str, Any]:
        while (result := self.poll()) is None:
            pass
        return result

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        resources = {"CPU": self.config.cpus} | ({"GPU": self.config.gpus} if self.config.gpus else {})
        trainer = trainer_class()(
            self._loop, train_loop_config=self._loop_config,
            scaling_config=ScalingConfig(num_workers=self.config.workers, use_gpu=self.config.gpus > 0,
                                         resources_per_worker=resources),
            run_config=RunConfig(name="learner", storage_path=str(self._run_path.resolve()),
                                 failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except BaseException as error:  # handed to the driver's thread, which raises it
            self._failure = error
