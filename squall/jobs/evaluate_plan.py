"""What `squall evaluate` is told and what follows from it: which questions, in which conditions, by which model.

All that can be refused is refused here, before anything is written or started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from squall.actors.endpoint_engine import EndpointEngineConfig
from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.judge_config import JudgeConfig
from squall.actors.rollout_engine import EngineConfig
from squall.algorithms.corruption import CALIBRATION, known_kinds, parse_spec
from squall.algorithms.rewards import RewardConfig
from squall.jobs.evaluate_questions import Condition, hash_questions, load_bench, load_questions, make_conditions
from squall.jobs.evaluated_model import EvaluatedModel, find_model
from squall.platform.classifiers import ClassifierConfig
from squall.platform.config import Config
from squall.platform.manifest import Rejection
from squall.platform.models import ModelConfig
from squall.platform.records import Branch, SamplingSpec, VideoSample
from squall.platform.report_card import CLEAN
from squall.platform.seeds import derive_seed
from squall.platform.video import FrameSampling

SCORE = "benchmark_accuracy"
"""Reward that an answer's score is."""


class EvaluationDataConfig(Config):
    """How questions are asked and their clips read."""

    prompt_template: str | None = None
    """`video_r1`, `compact`, or a text with {question}; by default compact for small policies and video_r1 for others."""
    frames: FrameSampling = FrameSampling()
    """Frame sampling and resolution, which need not be those of training; by default small for small policies."""
    cache: Path | None = None
    """Folder for decoded clips; None keeps nothing on disk."""
    media_root: Path | None = None
    """Folder that relative paths of a manifest start from; by default the manifest's own."""


class EvaluateConfig(Config):
    """A model's answers, clean and corrupted, and what can be said about them."""

    manifest: tuple[Path, ...] = ()
    """Questions with solutions (.json, .jsonl, .parquet; docs/data.md); several manifests are asked one after the other."""
    bench: Path | None = None
    """Folder of `squall bench build`, in place of manifest, kinds and severities: its clips are shown as they are."""
    questions: int | None = Field(None, ge=1)
    """The first so many of each manifest, or of the benchmark; by default all."""
    kinds: tuple[str, ...] = ("standard",)
    """Corruption kinds: `standard`, `all`, names, compositions (night + light_rain), module:function, learned:FOLDER of
    trained attackers; [] asks about clean clips alone."""
    severities: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Severities of each kind that names none of its own. The defaults are ROVA's."""
    conditions_per_question: int | None = Field(None, ge=1)
    """Ask each question clean and in so many corrupted conditions, drawn evenly, in place of all."""
    answers: int = Field(1, ge=1, le=256)
    """Answers to each clip, whose scores are averaged."""
    temperature: float = Field(0.01, ge=0, le=2)
    """Sampling temperature; 0 is greedy. The defaults of this and `top_p` are those of Qwen2.5-VL's demonstration."""
    top_p: float = Field(0.001, gt=0, le=1)
    """Answers are drawn from the likeliest tokens that hold this much probability."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens; by default 1,024, and 32 for small policies."""
    seed: int = Field(10_007, ge=0)
    """Corruptions and answers follow from it and from a question's id, whatever the number of workers. Runs that are to be
    compared need the same."""
    reported: dict[str, float] = {}
    """Figures that somebody else reported, such as {clean: 0.51, mpc: 0.33}; the report shows them beside the measured
    ones."""
    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    resume: bool = False
    """Go on with a run that was interrupted: squall evaluate runs/NAME/config.yaml --resume"""
    data: EvaluationDataConfig = EvaluationDataConfig()
    """How questions are asked and their clips read."""
    model: ModelConfig = ModelConfig()
    """The model: a video-language model, a video classifier (a directory of VideoMAE, TimeSformer or ViViT is known by its
    config.json, a folder that Squall wrote by its classifier.json), or the name of a model behind `endpoint`."""
    classifier: ClassifierConfig | None = None
    """Take model.path as a video classifier: kind=torchvision with its name, weights and classes, kind=callable with
    module:function, or a Hugging Face directory with classes of its own."""
    endpoint: EndpointEngineConfig | None = None
    """Ask a model behind an OpenAI-compatible chat endpoint, which gets clips as pictures."""
    engine: EngineConfig = EngineConfig()
    """vLLM engines; max_model_len and, where there is a GPU, gpus follow from the questions unless they are given. Of a
    classifier: count, cpus, gpus and timeouts."""
    workers: WorkersConfig = WorkersConfig()
    """Corruption and reward workers."""
    judge: JudgeConfig | None = None
    """Who scores reasoning by five rubrics (docs/evaluate.md): of kind `engine` or `endpoint`; by default nobody."""
    judged_questions: int = Field(50, ge=1)
    """The first so many questions have their reasoning judged, in every condition that they are asked in."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("manifest", "kinds", "severities", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path | int | float) else value

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return known_kinds(kinds)

    @field_validator("severities")
    @classmethod
    def _in_range(cls, severities: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in severities) or len(set(severities)) < len(severities):
            raise ValueError("expected different numbers above 0 and up to 1")
        return severities

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateConfig:
        if self.answers > 1 and self.temperature == 0:
            raise ValueError(f"{self.answers} answers at temperature 0 would all be the same; ask for one or raise temperature")
        if bool(self.manifest) == (self.bench is not None):
            raise ValueError("give the questions: manifest=FILE, or bench=FOLDER of `squall bench build`; one of them. `squall "
                             "evaluate @evaluate` asks the shipped policy about the embedded clips")
        if self.kinds and not self.severities:
            raise ValueError("severities is empty; give one or more, or kinds=[] to ask about clean clips alone")
        if self.judge is not None and not self.judge.can_see:
            raise ValueError(f"judge.kind {self.judge.kind} compares texts and cannot grade reasoning: take engine or endpoint")
        if self.resume and self.name is None:
            raise ValueError("resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        return self


@dataclass(frozen=True)
class Evaluation:
    """Everything that could be refused has been checked."""

    config: EvaluateConfig
    samples: tuple[VideoSample, ...]
    """In the order of the manifests; of a benchmark, about the clean clips."""
    rejected: tuple[Rejection, ...]
    conditions: tuple[Condition, ...]
    model: EvaluatedModel
    sampler: SamplerConfig
    sampling: SamplingSpec
    """Of every question, but for its seed."""
    calibration: int = CALIBRATION
    """Version of the table of severities."""
    copies: Mapping[str, tuple[VideoSample, ...]] = field(default_factory=dict)
    """Of a benchmark: the same questions about the clips of each condition, by its name."""

    @cached_property
    def media_root(self) -> Path:
        """Folder that media in the table of answers start from, where they are below it."""
        if self.config.bench is not None:
            return self.config.bench.absolute()
        roots = [path.absolute().parent for path in self.config.manifest]
        own = self.config.data.media_root
        return Path(os.path.commonpath(roots)) if own is None else own.absolute()

    def media_of(self, sample: VideoSample) -> str:
        """A question's media, or its copy in a benchmark, as the table of answers names it, the same on every machine."""
        path = Path(sample.media)
        return path.relative_to(self.media_root).as_posix() if path.is_relative_to(self.media_root) else sample.media

    def cases(self) -> Iterator[tuple[int, Condition]]:
        """Every question in each of its conditions, all of a question together: its clip is then decoded once."""
        corrupted, wanted = self.conditions[1:], self.config.conditions_per_question
        drawn = len(corrupted) if wanted is None else min(wanted, len(corrupted))
        for question in range(len(self.samples)):
            yield question, self.conditions[0]
            chosen: Sequence[int] = range(len(corrupted))
            if drawn < len(corrupted):
                # Each permutation serves as many questions as it can, so that conditions are asked about alike often.
                block, place = divmod(question, len(corrupted) // drawn)
                order = np.random.default_rng(derive_seed(self.config.seed, "conditions", block)).permutation(len(corrupted))
                chosen = sorted(order[place * drawn:(place + 1) * drawn].tolist())
            for index in chosen:
                yield question, corrupted[index]

    @property
    def case_count(self) -> int:
        """Questions times conditions, as they are asked."""
        corrupted = len(self.conditions) - 1
        return len(self.samples) * (1 + min(corrupted, self.config.conditions_per_question or corrupted))

    def plan(self, question: int, condition: Condition) -> GroupPlan:
        """How a question is asked in a condition."""
        sample = self.samples[question]
        spec = None if self.copies else condition.spec(sample, self.config.seed)
        branch = Branch.CLEAN if condition.kind is None else Branch.CORRUPTED
        base = self.sampling
        seeded = SamplingSpec(base.temperature, base.top_p, base.max_tokens, derive_seed(self.config.seed, sample.id))
        shown = self.copies[condition.name][question] if self.copies else sample
        return GroupPlan(f"{question}|{condition.name}", shown, spec, {branch: self.config.answers}, seeded)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the report card says of the data."""
        reasons: dict[str, int] = {}
        for one in self.rejected:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        sources = self.config.manifest if self.config.bench is None else (self.config.bench,)
        return {"manifest": ", ".join(map(str, sources)), "media_root": str(self.media_root),
                "hash": hash_questions(self.samples), "questions": len(self.samples),
                "videos": len({sample.media for sample in self.samples}), "rejected": reasons}

    def resolved(self, name: str, output: Path) -> EvaluateConfig:
        """The configuration with what followed from it written out, which asks the same when it is read again."""
        config, model = self.config, self.model
        data = config.data.model_copy(update={"frames": model.frames, "prompt_template": model.prompt_template})
        engine = {"engine": model.engine} if model.kind == "vllm" else {}
        return config.model_copy(update={"name": name, "output": output, "resume": False, "data": data,
                                         "max_tokens": model.max_tokens, **engine})

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What answers follow from, beside the questions and the model: a run with other settings is another run."""
        sampling = asdict(self.sampling)
        return {
            "kinds": list(dict.fromkeys(condition.kind for condition in self.conditions[1:])),
            **self._attackers,
            "severities": sorted({condition.severity for condition in self.conditions[1:]} - {None}),
            "conditions_per_question": self.config.conditions_per_question, "calibration": self.calibration,
            "seed": self.config.seed, "answers": self.config.answers, "decoding": sampling | {"seed": self.config.seed},
            "frames": self.sampler.frames.model_dump(mode="json"), "prompt_template": self.sampler.prompt_template,
            "dtype": self.sampler.model.dtype}


    @property
    def _attackers(self) -> dict[str, Any]:
        """Which attackers learned kinds are made of, where there are any: others at the same path are other conditions."""
        if self.config.bench is not None:
            return {}
        specs = {kind: parse_spec(kind, severity=0.5, seed=0) for kind in self.config.kinds}
        found = {kind: [one.checkpoint for one in (spec, *spec.then) if one.checkpoint] for kind, spec in specs.items()}
        learned = {kind: hashes for kind, hashes in found.items() if hashes}
        return {"attackers": learned} if learned else {}


def prepare(config: EvaluateConfig) -> Evaluation:
    """Read the questions, decide on what the configuration leaves open, read one clip and count tokens.

    Raises:
        ConfigError: a file, template, model or value that cannot be used, or a question that does not fit.
        DataError: a manifest or every clip cannot be read.
    """
    bench = None if config.bench is None else load_bench(config)
    samples, rejected = load_questions(config) if bench is None else (bench.copies[CLEAN], ())
    model = find_model(config, samples)
    sampler = SamplerConfig(
        run_id=f"evaluate-{time.time_ns()}", model_path=model.path, model=model.model, engine=model.engine,
        workers=config.workers, frames=model.frames, cache=config.data.cache, prompt_template=model.prompt_template,
        rewards=RewardConfig(weights={SCORE: 1.0}), judge=config.judge or JudgeConfig(), needs_judge=config.judge is not None)
    sampling = SamplingSpec(config.temperature, config.top_p, model.max_tokens)
    if bench is None:
        return Evaluation(config, samples, rejected, make_conditions(config.kinds, config.severities), model, sampler, sampling)
    return Evaluation(config, samples, rejected, bench.conditions, model, sampler, sampling, bench.calibration, bench.copies)
