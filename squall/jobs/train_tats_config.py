"""What `squall train tats` is told: arms x seeds, clips, workers; and the steps at which there is something to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from squall.actors.masked_video_loop import MaskedVideoWorkersConfig
from squall.actors.resources import Demand
from squall.algorithms.masked_video.samplers.config import SamplerConfig
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.jobs.attack_image_plan import LARGEST_NAME, NAME
from squall.platform.clip_data import TatsDataConfig
from squall.platform.config import Config, lay_over, set_key, validate
from squall.platform.errors import ConfigError, nearest
from squall.platform.tracking import TrackingConfig

ArmName = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=LARGEST_NAME)]
OWN = ("sampler", "sampler_training", "mask_ratio", "collapse", "microbatch_clips")
"""Keys in which arms may differ; all else they have in common, or they could not be compared."""


class MeasuringConfig(Config):
    """How trained autoencoders and their samplers are measured, on clips that no training saw."""

    split: Literal["test", "validation"] = "test"
    """Which clips they are: `test`, or `validation` ones to choose settings by."""
    clips: int = Field(256, ge=1)
    """At most so many, every class by its share."""
    probe_clips: int = Field(1024, ge=0)
    """At most so many labelled training clips for a linear probe on frozen features; 0 fits none."""
    draws: int = Field(4, ge=1)
    """Masks of each clip, of each sort."""
    examples: int = Field(2, ge=0)
    """Clips of each part whose masks are drawn on the page."""
    batch_clips: int = Field(16, ge=1)
    """Clips at a time."""


class TatsConfig(MaskedVideoConfig):
    """Masked video autoencoders trained together with their samplers: one, or arms x seeds under one budget."""

    data: TatsDataConfig = TatsDataConfig()
    """Clips; by default drawings whose true motion is known."""
    steps: int = Field(600, ge=1)
    """Steps of each training, of `batch_clips` clips."""
    arms: dict[ArmName, dict[str, Any]] = {}
    """By name, what is different about an arm: keys of `sampler`, `sampler_training`, `mask_ratio` and
    `collapse`, such as {tats: {}, random: {sampler.kind: random}}. Without any (null) there is one, named by
    `sampler.kind`."""
    seeds: tuple[int, ...] = ()
    """Every arm is trained with each; by default with `seed` alone. From three on a run says which arms differ."""
    log_every_steps: int = Field(10, ge=1)
    """Steps over which figures are averaged, for metrics.jsonl, TensorBoard, Weights & Biases and sweeps. A stop is heard
    as often, and a checkpoint can be written."""
    checkpoint_every_steps: int = Field(0, ge=0)
    """Write a checkpoint about every so many steps; 0 writes only the last, and one when the run is interrupted."""
    learner: MaskedVideoWorkersConfig = MaskedVideoWorkersConfig()
    """Ray Train workers of each training."""
    trainings_at_once: int = Field(0, ge=0)
    """Trainings at the same time; 0 takes as many as the cluster holds. 1 gives speeds that nothing else disturbs."""
    measuring: MeasuringConfig = MeasuringConfig()
    """What is measured at the end of each training."""
    tracking: TrackingConfig = TrackingConfig()
    """TensorBoard and Weights & Biases."""
    plan: bool = False
    """Print the plan, and start nothing."""
    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    resume: bool = False
    """Go on with a run that was interrupted: squall train tats runs/NAME/config.yaml --resume"""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("arms", mode="before")
    @classmethod
    def _as_arms(cls, value: Any) -> Any:
        return {} if value is None else value  # null over the arms of a base takes them away

    @model_validator(mode="after")
    def _consistent(self) -> TatsConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: name each once")
        if self.batch_clips < self.learner.workers:
            raise ValueError(f"batch_clips {self.batch_clips} does not go round learner.workers {self.learner.workers}")
        if self.learner.deepspeed is not None and self.learner.deepspeed.offload_optimiser and not self.learner.gpus:
            raise ValueError("learner.deepspeed.offload_optimiser needs learner.gpus: without GPUs all is in host memory")
        if self.resume and self.name is None:
            raise ValueError("resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        try:
            arms = make_arms(self)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        stage = 0 if self.learner.deepspeed is None else self.learner.deepspeed.zero_stage
        if stage == 2 and self.batch_clips % self.learner.workers and any(arm.config.microbatch_clips for arm in arms):
            raise ValueError("learner.deepspeed.zero_stage 2 with microbatch_clips needs a batch_clips that learner.workers "
                             f"{self.learner.workers} divides, got {self.batch_clips}: gradients are added up over workers "
                             "after every microbatch, and all must have as many")
        return self

    @property
    def trained_seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings."""
        return self.seeds or (self.seed,)


@dataclass(frozen=True)
class Arm:
    """A sampler, and how it is trained, with every seed."""

    name: str
    config: MaskedVideoConfig
    """The seed is the training's."""

    def seeded(self, seed: int) -> MaskedVideoConfig:
        """For one training."""
        return self.config.model_copy(update={"seed": seed})

    @property
    def description(self) -> str:
        """One line: what draws tokens, how it learns, and how many are visible."""
        sampler, ratio = self.config.sampler, self.config.mask_ratio.ratio
        grid = self.config.autoencoder.grid()
        drawn = describe_sampler(sampler, self.config.sampler_training.baseline)
        return f"{drawn}; {grid.visible(ratio)} of {grid.tokens} tokens visible"


def describe_sampler(sampler: SamplerConfig, baseline: str) -> str:
    """How tokens are drawn, and how that is learned; `baseline` is what rewards of a clip are compared with."""
    if sampler.rule is None:
        return {"random": "by chance", "tube": "the same places at all times", "flow": "by optical flow"}[sampler.kind]
    rule = {"ppo": "PPO", "reinforce": "REINFORCE", "token": "AdaMAE's policy gradient"}[sampler.rule]
    if sampler.rule != "token":
        rule += " with a critic" if baseline == "critic" else " with a clip's other masks as baseline"
    attention = sampler.attention or ("attention" if sampler.rule == "token" else "trajectory")
    blocks = "trajectory attention" if attention == "trajectory" else "plain attention"
    return f"{blocks} of width {sampler.network.width}, {rule}, {sampler.credits.chooses} tokens are drawn"


def make_arms(config: TatsConfig) -> tuple[Arm, ...]:
    """The arms of a run.

    Raises:
        ConfigError: a key that arms have in common, an unknown one or a bad value; a sampler that would never learn.
    """
    arms = config.arms or {config.sampler.kind: {}}
    return tuple(_make_arm(name, own, config) for name, own in arms.items())


def _make_arm(name: str, own: Mapping[str, Any], config: TatsConfig) -> Arm:
    where, different = f"arms.{name}", {}
    for key, value in own.items():
        part: dict[str, Any] = {}
        set_key(part, key, value, where)
        different = lay_over(different, part)
    for key in different:
        if key not in OWN:
            raise ConfigError(f"{where}: {key} is the same for all arms, or they could not be compared; give it beside arms"
                              if key in TatsConfig.model_fields else
                              f"{where}: unknown key '{key}'.{nearest(key, OWN)} Allowed here: {', '.join(OWN)}")
    common = config.model_dump(include=set(MaskedVideoConfig.model_fields))
    made = validate(MaskedVideoConfig, lay_over(common, different), where)
    warmup = made.sampler_training.warmup_steps
    if made.sampler.rule is not None and warmup >= config.steps:
        raise ConfigError(f"{where}: sampler_training.warmup_steps {warmup} are all of steps {config.steps}, so that the "
                          "sampler never learns; make them fewer, or steps more")
    return Arm(name, made)


def marks(config: TatsConfig, arm: Arm) -> list[int]:
    """Steps after which figures are told and a checkpoint loses nothing: about every `log_every_steps`, with the sampler's
    buffer empty, and the last."""
    training = arm.config.sampler_training
    warm, buffer = (training.warmup_steps, training.buffer_steps) if arm.config.sampler.rule else (config.steps, 1)

    def settled(step: int) -> int:
        return step if step <= warm else warm + -(-(step - warm) // buffer) * buffer

    found = {settled(step) for step in range(config.log_every_steps, config.steps, config.log_every_steps)}
    return sorted({step for step in found if step < config.steps} | {config.steps})


def demands(config: TatsConfig) -> list[Demand]:
    """What one training reserves on the cluster; as many run at a time as it holds."""
    learner = config.learner
    return [Demand("learner worker", learner.workers, learner.cpus, learner.gpus)]


def steps(config: TatsConfig) -> int:
    """Steps of each training, which is how far a sweep follows it."""
    return config.steps
