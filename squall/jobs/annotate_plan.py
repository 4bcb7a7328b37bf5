"""What `squall annotate` is told and what follows from it: which questions, how they are asked, where the answers go.

All that can be refused is refused here, before anything is written or started.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.rollout_engine import EngineConfig
from squall.algorithms.rewards import COMPARING, LEARNER_REWARDS, RewardConfig, load_rewards
from squall.jobs.question import (
    SMALL_MAX_TOKENS,
    SMALL_POLICY,
    choose_frames,
    choose_model,
)
from squall.jobs.session import CorruptionConfig
from squall.jobs.sizing import measure_engine
from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Rejection, load_manifest, read_records
from squall.platform.models import ModelConfig, resolve_model_path
from squall.platform.prompts import prompt_template
from squall.platform.records import Branch, SamplingSpec, VideoSample
from squall.platform.runs import to_json
from squall.platform.seeds import derive_seed
from squall.platform.shapes import find_shape
from squall.platform.video import FrameSampling

MAX_TOKENS = 512
ASKED_FIELDS = ("problem", "options", "problem_type", "data_type", "path", "solution")
"""What an answer depends on in a record; a record in which one of them changed is asked again."""


class AnnotateDataConfig(Config):
    """How questions are asked and their clips read."""

    prompt_template: str | None = None
    """`video_r1`, `compact`, or a text with {question}; by default compact for small policies and video_r1 for others."""
    frames: FrameSampling = FrameSampling()
    """Frame sampling and resolution; by default small for small policies."""
    cache: Path | None = None
    """Folder for decoded clips; None keeps nothing on disk."""


class AnnotationRewardConfig(RewardConfig):
    """What answers are judged by."""

    weights: dict[str, float] = Field(default={"accuracy": 1.0}, min_length=1)
    """Weight per reward: a built-in name or ``module:function``. An answer's reward is their weighted sum."""

    @field_validator("weights")
    @classmethod
    def _of_one_clip(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in (*COMPARING, *LEARNER_REWARDS):
            if name in weights:
                raise ValueError(f"reward '{name}' compares answers about two clips, and here each question is asked about one")
        return weights


class AnnotateConfig(Config):
    """Reasoning for supervised fine-tuning, from a model's own answers."""

    manifest: Path
    """MANIFEST: questions with solutions (.json, .jsonl, .parquet; docs/data.md)."""
    output: Path
    """OUTPUT: the new manifest, a .jsonl file whose folder holds the media. What was asked is kept beside it, in
    NAME.annotate/: the same command goes on from there."""
    answers: int = Field(4, ge=1, le=256)
    """Answers sampled to each question; the best one is kept."""
    keep_above: float = Field(0.6, allow_inf_nan=False)
    """An answer is kept when its reward is above this. Another value asks nothing again."""
    rewards: AnnotationRewardConfig = AnnotationRewardConfig()
    """What answers are judged by; one without reasoning and answer in their tags is never kept."""
    corruption: CorruptionConfig | None = None
    """Ask about corrupted clips, such as corruption.severity=[0.3, 0.6]; null asks about clean ones."""
    temperature: float = Field(1.0, ge=0, le=2)
    """Sampling temperature."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Answers are drawn from the likeliest tokens that hold this much probability."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens; by default 512, and 32 for small policies."""
    seed: int = Field(0, ge=0)
    """Answers and corruptions follow from it and from a question's id, whatever the number of workers."""
    data: AnnotateDataConfig = AnnotateDataConfig()
    """How questions are asked and their clips read."""
    model: ModelConfig = ModelConfig()
    """Model that answers; as large as can be had."""
    engine: EngineConfig = EngineConfig()
    """vLLM engines; max_model_len and, where there is a GPU, gpus follow from the questions unless they are given."""
    workers: WorkersConfig = WorkersConfig()
    """Corruption and reward workers."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @model_validator(mode="after")
    def _consistent(self) -> AnnotateConfig:
        if self.answers > 1 and self.temperature == 0:
            raise ValueError(f"{self.answers} answers at temperature 0 would all be the same; ask for one or raise temperature")
        if self.output.suffix != ".jsonl":
            raise ValueError(f"output = {self.output}: manifests are written as JSON lines; use a name that ends in .jsonl")
        return self


@dataclass(frozen=True, slots=True)
class Target:
    """A question, and what the new manifest says of it before it is answered."""

    sample: VideoSample
    record: Mapping[str, Any]
    fingerprint: str
    """Of all in the record that answers depend on."""


@dataclass(frozen=True)
class Annotation:
    """Everything that could be refused has been checked."""

    config: AnnotateConfig
    targets: tuple[Target, ...]
    """In the order of the manifest."""
    rejected: tuple[Rejection, ...]
    sampler: SamplerConfig
    sampling: SamplingSpec
    """Of every question, but for its seed."""

    @property
    def folder(self) -> Path:
        """Where what was asked is kept."""
        return self.config.output.absolute().with_suffix(".annotate")

    @property
    def settings(self) -> dict[str, Any]:
        """What answers follow from, beside the question: a run with other settings is another run."""
        config, sampler, sampling = self.config, self.sampler, self.sampling
        dtype = sampler.model.dtype if sampler.engine.dtype == "auto" else sampler.engine.dtype
        corruption = None if config.corruption is None else config.corruption.model_dump(mode="json")
        return {"model": sampler.model_path, "dtype": dtype, "answers": config.answers, "temperature": sampling.temperature,
                "top_p": sampling.top_p, "max_tokens": sampling.max_tokens, "seed": config.seed,
                "prompt_template": sampler.prompt_template, "frames": sampler.frames.model_dump(mode="json"),
                "corruption": corruption, "rewards": config.rewards.model_dump(mode="json")}

    def plan(self, target: Target) -> GroupPlan:
        """How one question is asked."""
        config, sample, sampling = self.config, target.sample, self.sampling
        spec, branch = None, Branch.CLEAN
        if config.corruption is not None:
            branch = Branch.CORRUPTED
            spec = config.corruption.draw(derive_seed(config.seed, sample.id, branch.value))
        seeded = SamplingSpec(sampling.temperature, sampling.top_p, sampling.max_tokens, derive_seed(config.seed, sample.id))
        return GroupPlan(f"annotate-{sample.id}", sample, spec, {branch: config.answers}, seeded)


def prepare(config: AnnotateConfig) -> Annotation:
    """Read the questions, decide on what the configuration leaves open, read one clip and count tokens.

    Raises:
        ConfigError: a file, template, model or value that cannot be used, or a question that does not fit.
        DataError: the manifest or every clip cannot be read.
    """
    check_output(config)
    targets, rejected = find_targets(config)
    load_rewards(config.rewards)
    path = resolve_model_path(config.model.path)
    shape = find_shape(path)
    small = shape is not None and shape.parameters < SMALL_POLICY
    template = config.data.prompt_template or ("compact" if small else "video_r1")
    frames = choose_frames(config.data.frames, shape, small)
    max_tokens = config.max_tokens or (SMALL_MAX_TOKENS if small else MAX_TOKENS)
    samples = [target.sample for target in targets]
    engine = measure_engine(config.engine, path, samples, prompt_template(template), frames, max_tokens)
    sampler = SamplerConfig(
        run_id=f"annotate-{time.time_ns()}", model_path=path, model=choose_model(config.model, path), engine=engine,
        workers=config.workers, frames=frames, cache=config.data.cache, prompt_template=template, rewards=config.rewards)
    return Annotation(config, targets, rejected, sampler, SamplingSpec(config.temperature, config.top_p, max_tokens))


def check_output(config: AnnotateConfig) -> None:
    """Whether OUTPUT can be written to. Raises ConfigError."""
    output = config.output
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; OUTPUT is the new manifest, such as {output / 'train-cot.jsonl'}")
    if os.path.abspath(output) == os.path.abspath(config.manifest):
        raise ConfigError(f"{output}: is MANIFEST itself; OUTPUT is a new file")
    if output.exists() and not output.with_suffix(".annotate").is_dir():
        raise ConfigError(f"{output}: exists already and was not written by squall annotate; choose another name or delete it")


def find_targets(config: AnnotateConfig) -> tuple[tuple[Target, ...], tuple[Rejection, ...]]:
    """The manifest's questions, and records that cannot be used.

    Raises:
        ConfigError: relative media paths would leave the folder of OUTPUT.
        DataError: no record has a solution, or none can be used.
    """
    records = dict(read_records(config.manifest))
    if records and not any(isinstance(record, dict) and record.get("solution") for record in records.values()):
        raise DataError(f"{config.manifest}: no record has a solution, and answers are judged by it; write it as "
                        '"solution": "<answer>B</answer>"', reason="missing_field")
    manifest = load_manifest(config.manifest, on_error="collect")
    root = Path(os.path.abspath(config.output.parent))
    targets, outside = [], []
    for line, sample in zip(manifest.lines, manifest.samples, strict=True):
        record = records[line]
        path = media_path(record["path"], Path(sample.media), root)
        if path is None:
            outside.append(sample)
            continue
        asked = to_json({key: record.get(key) for key in ASKED_FIELDS})
        named = next((key for key in ("id", "problem_id") if record.get(key) not in (None, "")), "id")
        targets.append(Target(sample, {**record, named: sample.id, "path": path},
                              hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()))
    if outside:
        raise ConfigError(f"{config.output}: media of {len(outside):,} questions lie outside its folder {root} (sample "
                          f"{outside[0].id}: {outside[0].media}), and a manifest's relative paths may not leave its folder; "
                          f"write it beside MANIFEST: {config.manifest.parent / config.output.name}")
    return tuple(targets), manifest.rejected


def media_path(text: str, media: Path, root: Path) -> str | None:
    """A record's path as a manifest in `root` has it, absolute ones and URIs as they stand; None where it would leave it."""
    if "://" in text or Path(text).is_absolute():
        return text
    return f"./{media.relative_to(root).as_posix()}" if media.is_relative_to(root) else None
