"""The learner: Ray Train workers that run DeepSpeed, fed through the rollout buffer.

`Learner` is the driver's handle; `learner_worker.learner_loop` is what every worker runs. The objective is T-GRPO or supervised
fine-tuning; both reduce to answers with a weight, so both share these files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from squall.actors.deepspeed_backend import OptimiserConfig
from squall.actors.rollout_buffer import Publish, TrainBatch
from squall.actors.weight_transfer import Backend, EngineFleet
from squall.actors.worker_group import WorkerGroup
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig
from squall.platform.config import Config
from squall.platform.errors import SquallError
from squall.platform.models import ModelConfig


class LearnerConfig(Config):
    """How the learner is laid out and how it steps."""

    workers: int = Field(1, ge=1)
    """Ray Train workers; each holds one DeepSpeed rank."""
    least_workers: int | None = Field(None, ge=1)
    """Begin, or go on, with as few as this where the cluster has no room for `workers`; None takes `workers` and no fewer. The
    loss does not depend on their number."""
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
    recoveries: int = Field(3, ge=0)
    """How often the run may go on from its last checkpoint after a learner worker was lost with its process or node; 0 ends it.
    Write checkpoints (checkpoint_every_steps), because without one it begins anew."""
    start_timeout_s: float = Field(300.0, gt=0)
    """How long the workers may take to load the model."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """How long one step may take before the run stops with an error."""

    @model_validator(mode="after")
    def _in_order(self) -> LearnerConfig:
        if self.least_workers is not None and self.least_workers > self.workers:
            raise ValueError(f"least_workers {self.least_workers} is more than workers {self.workers}")
        return self


Objective = Literal["tgrpo", "sft"]
PUBLISH_POLL_S = 0.05


class Learner(WorkerGroup):
    """Driver's handle on the Ray Train learner. `start`; then `step`, or `begin` and `poll`, in order; then `stop`."""

    config: LearnerConfig

    def __init__(self, config: LearnerConfig, model: ModelConfig, objective: Objective, run_path: Path, *,
                 total_steps: int, tgrpo: TGRPOConfig | None = None, rewards: RewardConfig | None = None,
                 temperature: float = 1.0, seed: int = 0, fleet: EngineFleet | None = None,
                 weight_transfer: Backend = "shared_memory", resume: Path | None = None) -> None:
        """`resume` is a checkpoint to go on from; `model` stays what the run began with; `rewards` says what it computes."""
        from squall.actors.learner_worker import learner_loop

        super().__init__(config, learner_loop, {
            "learner": config, "model": model, "objective": objective, "tgrpo": tgrpo, "rewards": rewards or RewardConfig(),
            "temperature": temperature, "seed": seed, "total_updates": total_steps * config.updates_per_step,
            "fleet": fleet, "weight_transfer": weight_transfer, "resume": resume}, run_path)

    def begin(self, batch: TrainBatch) -> None:
        """Start to train on a batch; `poll` says when it is done. Nothing else may be asked of the learner until then."""
        if batch.prompt_count < self.config.updates_per_step:
            raise SquallError(f"learner step {batch.step}: {batch.prompt_count} clips with a prompt cannot be shared out over "
                              f"learner.updates_per_step {self.config.updates_per_step}; lower it")
        self.send(batch, f"training on step {batch.step}")

    def step(self, batch: TrainBatch) -> dict[str, Any]:
        """Train on one batch and return its metrics."""
        self.begin(batch)
        return self._wait()

    def publish(self, version: int, engines: Sequence[int] | None = None, *, reconnect: bool = False,
                meanwhile: Callable[[], None] = lambda: None) -> dict[int, str]:
        """Hand the current weights to the engines of these numbers, by default all; returns those that were lost
        meanwhile, and why.

        Args:
            meanwhile: called now and then; engines first end what they are answering, and those answers come in.
        """
        command = Publish(version, None if engines is None else tuple(engines), reconnect)
        self.send(command, f"handing over weights {version}")
        while (result := self.poll(PUBLISH_POLL_S)) is None:
            meanwhile()
        return result["lost"]
