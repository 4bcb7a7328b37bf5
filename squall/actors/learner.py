"""The learner: Ray Train workers that run DeepSpeed, fed through the rollout buffer.

`Learner` is the driver's handle; `learner_worker.learner_loop` is what every worker runs. The objective is T-GRPO or supervised
fine-tuning; both reduce to answers with a weight, so both share these files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import Field
from ray.exceptions import RayError

from squall.actors.deepspeed_backend import OptimiserConfig
from squall.actors.rollout_buffer import Command, Publish, RolloutBuffer, Save, TrainBatch
from squall.actors.weight_transfer import Backend, EngineFleet
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig
from squall.platform.config import Config
from squall.platform.errors import SquallError, cause
from squall.platform.models import ModelConfig


class LearnerConfig(Config):
    """How the learner is laid out and how it steps."""

    workers: int = Field(1, ge=1)
    """Ray Train workers; each holds one DeepSpeed rank."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; by default its CPUs, at least 1. On a small machine where learner and engine take
    turns it may be more."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each worker."""
    tokens_per_microbatch: int = Field(8192, ge=1)
    """Tokens, padding included, in one forward and backward pass of a worker; one answer with its prompt always fits."""
    shared_prefix: bool = True
    """Encode a clip and its prompt once for all their answers; false encodes them anew for each, for comparison."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more arithmetic."""
    vision_cache_mib: int = Field(1024, ge=0)
    """Memory for the outputs of a frozen vision tower, by clip; without effect while the tower learns."""
    updates_per_step: int = Field(1, ge=1)
    """Optimiser updates made from one batch of rollouts; above 1 the clipped ratio comes into play."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """AdamW and ZeRO."""
    start_timeout_s: float = Field(300.0, gt=0)
    """How long the workers may take to load the model."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """How long one step may take before the run stops with an error."""


Objective = Literal["tgrpo", "sft"]


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


class Learner:
    """Driver's handle on the Ray Train learner. `start`; then `step`, or `begin` and `poll`, in order; then `stop`."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, objective: Objective, run_path: Path, *,
                 total_steps: int, tgrpo: TGRPOConfig | None = None, rewards: RewardConfig | None = None,
                 temperature: float = 1.0, seed: int = 0, fleet: EngineFleet | None = None,
                 weight_transfer: Backend = "shared_memory", resume: Path | None = None) -> None:
        """`resume` is a checkpoint to go on from; `model` stays what the run began with; `rewards` says what it computes."""
        self.config = config
        self._buffer = RolloutBuffer.remote(capacity=1, readers=config.workers)
        self._index = 0
        self._failure: BaseException | None = None
        self._loop_config = {
            "learner": config, "model": model, "objective": objective, "tgrpo": tgrpo, "rewards": rewards or RewardConfig(),
            "temperature": temperature, "seed": seed, "total_updates": total_steps * config.updates_per_step,
            "buffer": self._buffer,
            "fleet": fleet, "weight_transfer": weight_transfer, "resume": resume, "logs": run_path.absolute() / "logs",
        }
        self._awaited: tuple[Any, str, float] | None = None
        self._run_path = run_path
        self._thread = threading.Thread(target=self._fit, name="learner", daemon=True)

    def start(self) -> None:
        """Start the workers and wait until every one has loaded the model."""
        self._thread.start()
        self._expect(-1, self.config.start_timeout_s, "loading the model")
        self._wait()

    def begin(self, batch: TrainBatch) -> None:
        """Start to train on a batch; `poll` says when it is done. Nothing else may be asked of the learner until then."""
        if batch.prompt_count < self.config.updates_per_step:
            raise SquallError(f"learner step {batch.step}: {batch.prompt_count} clips with a prompt cannot be shared out over "
                              f"learner.updates_per_step {self.config.updates_per_step}; lower it")
        self._send(batch, f"training on step {batch.step}")

    def poll(self, timeout_s: float = 0.5) -> dict[str, Any] | None:
        """The step's metrics once it is done, None after `timeout_s` seconds without an answer."""
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

    def step(self, batch: TrainBatch) -> dict[str, Any]:
        """Train on one batch and return its metrics."""
        self.begin(batch)
        return self._wait()

    def publish(self, version: int, engines: Sequence[int] | None = None, *, reconnect: bool = False) -> list[int]:
        """Hand the current weights to the engines of these numbers, by default all; returns those that died meanwhile."""
        self._send(Publish(version, None if engines is None else tuple(engines), reconnect), f"handing over weights {version}")
        return self._wait()["lost"]

    def save(self, directory: Path) -> None:
        """Write a checkpoint of weights and optimiser into an existing directory."""
        self._send(Save(str(directory)), f"writing {directory}")
        self._wait()

    @property
    def idle(self) -> bool:
        """Whether the learner lives and nothing is asked of it."""
        return self._awaited is None and self._failure is None and self._thread.is_alive()

    def _send(self, command: Command, phase: str) -> None:
        try:
            ray.get(self._buffer.put.remote(self._index, command), timeout=self.config.step_timeout_s)
        except RayError as error:
            raise SquallError(f"learner: the rollout buffer is gone or full before {phase}: {cause(error)}") from error
        self._expect(self._index, self.config.step_timeout_s, phase)
        self._index += 1

    def _expect(self, index: int, timeout_s: float, phase: str) -> None:
        self._awaited = (self._buffer.result.remote(index), phase, time.monotonic() + timeout_s)

    def _wait(self) -> dict[str, Any]:
        while (result := self.poll()) is None:
            pass
        return result

    def stop(self) -> None:
        """Let the workers leave their loop and wait for Ray Train to finish."""
        if self._thread.is_alive() and self._awaited is None:
            with suppress(RayError):
                ray.get(self._buffer.put.remote(self._index, None), timeout=10)
                self._thread.join(timeout=60)
        ray.kill(self._buffer)

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from squall.actors.learner_worker import learner_loop

        resources = {"CPU": self.config.cpus} | ({"GPU": self.config.gpus} if self.config.gpus else {})
        trainer = trainer_class()(
            learner_loop, train_loop_config=self._loop_config,
            scaling_config=ScalingConfig(num_workers=self.config.workers, use_gpu=self.config.gpus > 0,
                                         resources_per_worker=resources),
            run_config=RunConfig(name="learner", storage_path=str(self._run_path.resolve()),
                                 failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except BaseException as error:  # handed to the driver's thread, which raises it
            self._failure = error
