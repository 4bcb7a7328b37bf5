"""One question about one clip: what `squall ask` is told, what follows from it, and what is refused before anything starts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.rollout_engine import EngineConfig
from squall.algorithms.accuracy import canonical_answer, parse_number
from squall.algorithms.corruption import expand_kinds, parse_spec
from squall.algorithms.rewards import RewardConfig
from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError, nearest
from squall.platform.machine import find_gpus
from squall.platform.manifest import load_manifest
from squall.platform.models import (
    ModelConfig,
    count_prompt_tokens,
    load_processor,
    longest_sequence,
    render_prompt,
    resolve_model_path,
    stored_dtype,
)
from squall.platform.prompts import build_messages, extract_answer, letter_options, prompt_template
from squall.platform.records import Branch, MediaType, ProblemType, SamplingSpec, VideoSample
from squall.platform.seeds import derive_seed
from squall.platform.shapes import ModelShape, find_shape
from squall.platform.video import FrameSampling, load_clip

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
SMALL_POLICY = 100_000_000
"""Policies with fewer parameters are like the shipped one: the question alone, small frames, short answers."""
SMALL_FRAMES = {"max_frames": 8, "max_pixels": 56 * 56}
SMALL_MAX_TOKENS, MAX_TOKENS = 32, 768
DOWNLOAD_TIMEOUT_S = 3600.0
"""How long an engine may take to start here: it may have to fetch the weights first."""
LENGTH_STEP = 64
"""The engine's longest sequence is rounded up to a multiple of this."""


class AskConfig(Config):
    """One question about one clip."""

    video: Path | None = None
    """Video or image file."""
    question: str | None = None
    """What to ask about it."""
    options: tuple[str, ...] = ()
    """Options of a multiple choice question, such as [blue, white]; letters are put before them where they have none."""
    solution: str | None = None
    """Right answer, such as B; answers are marked right or wrong by it."""
    problem_type: ProblemType | None = None
    """How the answer is asked for and compared; by default multiple choice with options and free-form without."""
    media_type: MediaType | None = None
    """By default what the file's name ends in says."""
    manifest: Path | None = None
    """Manifest to take a question from, in place of VIDEO and QUESTION."""
    sample: str | None = None
    """Id of that question."""
    corruption: tuple[str, ...] = ()
    """Corruption kinds, such as fog [fog, night + light_rain], standard or all; each corrupted clip is asked about."""
    severity: float = Field(0.7, ge=0, le=1)
    """Severity of the corruptions."""
    seed: int = Field(0, ge=0)
    """Seed of the corruptions and of sampled answers."""
    answers: int = Field(1, ge=1, le=256)
    """Answers to each clip."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature; by default 0 for one answer and 1 for several."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens; by default 768, and 32 for small policies."""
    model: ModelConfig = ModelConfig()
    """Policy."""
    engine: EngineConfig = EngineConfig()
    """vLLM engine; max_model_len and, where there is a GPU, gpus follow from the question unless they are given."""
    prompt_template: str | None = None
    """`video_r1`, `compact`, or a text with {question}; by default compact for small policies and video_r1 for others."""
    frames: FrameSampling = FrameSampling()
    """Frame sampling and resolution; by default small for small policies."""
    page: Path | None = None
    """Write an HTML page with the clips, as the model saw them, and the answers, such as answer.html."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("question", "solution", "sample", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return _plain_text(value)

    @field_validator("options", "corruption", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",")]
        return [_plain_text(item) for item in value] if isinstance(value, list | tuple) else value

    @field_validator("problem_type", mode="before")
    @classmethod
    def _known_type(cls, value: Any) -> Any:
        names = [str(name) for name in ProblemType]
        if value is not None and value not in names:
            raise ValueError(f"unknown problem type.{nearest(str(value), names)} Allowed: {', '.join(names)}")
        return value

    @field_validator("corruption")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in ("all", "standard"):
                try:
                    parse_spec(kind, severity=0.5, seed=0)
                except ConfigError as error:
                    raise ValueError(f"{error}; or standard, or all") from None
        return expand_kinds(kinds)

    @model_validator(mode="after")
    def _consistent(self) -> AskConfig:
        direct, stored = (self.video, self.question), (self.manifest, self.sample)
        if not (all(direct) and not any(stored) or all(stored) and not any(direct)):
            raise ValueError("give VIDEO and QUESTION, or manifest=FILE and sample=ID")
        if any(stored) and (self.options or self.solution or self.problem_type or self.media_type):
            raise ValueError("the manifest's record has options, solution and types of its own; leave them out here")
        if self.problem_type is ProblemType.MULTIPLE_CHOICE and not self.options:
            raise ValueError("problem_type multiple choice needs options, such as options=[blue, white]")
        if self.answers > 1 and self.temperature == 0:
            raise ValueError(f"{self.answers} answers at temperature 0 would all be the same; ask for one or raise temperature")
        if self.page is not None and self.page.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"page = {self.page}: the page is HTML; give it a name that ends in .html")
        return self


@dataclass(frozen=True)
class Question:
    """A question that can be asked: everything that could be refused has been checked."""

    sample: VideoSample
    plans: tuple[GroupPlan, ...]
    """One for the clean clip, then one for each corruption."""
    sampler: SamplerConfig
    prompt_tokens: int
    clip_tokens: int


def prepare(config: AskConfig) -> Question:
    """Decide on everything that the configuration leaves open, read the clip once and count the prompt's tokens.

    Raises:
        ConfigError: a file, template, model or value that cannot be used, or a prompt that does not fit.
        DataError: the media cannot be read.
    """
    sample = stored_sample(config) if config.manifest is not None else typed_sample(config)
    path = resolve_model_path(config.model.path)
    shape = find_shape(path)
    small = shape is not None and shape.parameters < SMALL_POLICY
    template = config.prompt_template or ("compact" if small else "video_r1")
    frames = choose_frames(config.frames, shape, small)
    clip = load_clip(sample.media, frames, sample_id=sample.id, media_type=sample.media_type)
    messages = build_messages(sample, prompt_template(template))
    processor = find_processor(path)
    prompt = render_prompt(processor, messages)
    prompt_tokens = count_prompt_tokens(processor, prompt, clip)
    max_tokens = config.max_tokens or (SMALL_MAX_TOKENS if small else MAX_TOKENS)
    engine = choose_engine(config.engine, prompt_tokens, max_tokens, longest_sequence(path))
    sampler = SamplerConfig(
        run_id=f"ask-{time.time_ns()}", model_path=path, model=choose_model(config.model, path), engine=engine,
        workers=WorkersConfig(), frames=frames, cache=None, prompt_template=template,
        rewards=RewardConfig(weights={"accuracy": 1.0}))
    text_tokens = len(processor.tokenizer(prompt).input_ids) - 1  # the one placeholder becomes the clip
    return Question(sample, make_plans(config, sample, max_tokens), sampler, prompt_tokens, prompt_tokens - text_tokens)


def typed_sample(config: AskConfig) -> VideoSample:
    """The question as it was typed."""
    video, text = config.video, config.question
    if not video.is_file():
        problem = "a folder" if video.is_dir() else "no such file"
        raise ConfigError(f"{video}: {problem}; VIDEO is a video or an image file")
    if not text.strip():
        raise ConfigError("QUESTION is empty")
    options = letter_options(config.options)
    kind = config.problem_type or (ProblemType.MULTIPLE_CHOICE if options else ProblemType.FREE_FORM)
    media = config.media_type or (MediaType.IMAGE if video.suffix.lower() in IMAGE_SUFFIXES else MediaType.VIDEO)
    solution = check_solution(config.solution, kind, options)
    return VideoSample(video.stem, str(video.resolve()), media, text, kind, solution, options)


def stored_sample(config: AskConfig) -> VideoSample:
    """The manifest's question of the given id."""
    samples = {sample.id: sample for sample in load_manifest(config.manifest, on_error="collect").samples}
    if config.sample not in samples:
        raise ConfigError(f"{config.manifest}: no usable question with the id '{config.sample}'."
                          f"{nearest(config.sample, samples)}")
    return samples[config.sample]


def check_solution(text: str | None, kind: ProblemType, options: Sequence[str]) -> str:
    """The bare solution, for a multiple choice question as its letter; empty where there is none. Raises ConfigError."""
    if text is None:
        return ""
    solution = (extract_answer(text) or text).strip()
    if kind is ProblemType.MULTIPLE_CHOICE:
        letters = {canonical_answer(option, kind): option.partition(" ")[2].strip() for option in options}
        words = {option.casefold(): letter for letter, option in letters.items()}
        found = words.get(solution.casefold(), canonical_answer(solution, kind))
        if found not in letters:
            raise ConfigError(f"solution = {solution}: none of the options {', '.join(options)}")
        return found
    if kind in (ProblemType.NUMERICAL, ProblemType.REGRESSION) and parse_number(solution) is None:
        raise ConfigError(f"solution = {solution}: a {kind} question needs a number such as 7 or 2.5")
    return solution


def choose_frames(frames: FrameSampling, shape: ModelShape | None, small: bool) -> FrameSampling:
    """The frames as configured; what was left open follows from the policy."""
    block = {} if shape is None else {"size_multiple": shape.vision.block}
    values = {**block, **(SMALL_FRAMES if small else {}), **frames.model_dump(exclude_unset=True)}
    return validate(FrameSampling, values, where="frames")


def choose_model(model: ModelConfig, path: str) -> ModelConfig:
    """The policy as configured; its type, where left open, is the one that its weights are stored in."""
    return model if "dtype" in model.model_fields_set else model.model_copy(update={"dtype": stored_dtype(path)})


def find_processor(path: str) -> Any:
    """The model's processor. Raises ConfigError where the directory or the hub has none."""
    try:
        return load_processor(path)
    except (OSError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"model.path = {path}: its processor cannot be loaded ({reason[:200]}); give a local directory, "
                          "or an id that the hub has") from None


def choose_engine(engine: EngineConfig, prompt_tokens: int, max_tokens: int, longest: int | None) -> EngineConfig:
    """The engine as configured, one alone, long enough for prompt and answer. Raises ConfigError where that cannot be."""
    needed, given = prompt_tokens + max_tokens, engine.model_fields_set
    limits = [("engine.max_model_len", engine.max_model_len)] if "max_model_len" in given else []
    limits += [("the model's longest sequence", longest)] if longest is not None else []
    for name, limit in limits:
        if needed > limit:
            raise ConfigError(f"prompt of {prompt_tokens:,} tokens + max_tokens {max_tokens:,} exceed {name}, {limit:,}; lower "
                              "max_tokens, or take fewer or smaller frames (frames.max_frames, frames.max_pixels)")
    changes: dict[str, Any] = {"count": 1}
    if "startup_timeout_s" not in given:
        changes["startup_timeout_s"] = DOWNLOAD_TIMEOUT_S
    if "max_model_len" not in given:
        rounded = math.ceil(needed / LENGTH_STEP) * LENGTH_STEP
        changes["max_model_len"] = min(rounded, longest) if longest is not None else rounded
    if "gpus" not in given and find_gpus():
        changes["gpus"] = float(engine.tensor_parallel_size)
    return validate(EngineConfig, {**engine.model_dump(), **changes}, where="engine")


def make_plans(config: AskConfig, sample: VideoSample, max_tokens: int) -> tuple[GroupPlan, ...]:
    """One plan for the clean clip and one for each corruption; the same seed draws their answers."""
    temperature = config.temperature if config.temperature is not None else float(config.answers > 1)
    sampling = SamplingSpec(temperature=temperature, max_tokens=max_tokens, seed=config.seed)
    plans = [GroupPlan("clean", sample, None, {Branch.CLEAN: config.answers}, sampling)]
    for kind in config.corruption:
        spec = parse_spec(kind, severity=config.severity, seed=derive_seed(config.seed, sample.id, kind))
        plans.append(GroupPlan(kind, sample, spec, {Branch.CORRUPTED: config.answers}, sampling))
    return tuple(plans)


def _plain_text(value: Any) -> Any:
    """What YAML took for a number or a truth value, as it was most likely typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value
