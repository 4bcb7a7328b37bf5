"""Which kind of model is evaluated, how its engines are made, and how sure it was of an answer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from squall.actors.classifier_engine import ClassifierEngine, ClassifierEngineConfig
from squall.actors.endpoint_engine import EndpointEngine, EndpointEngineConfig
from squall.actors.engine_config import EngineActorsConfig
from squall.actors.rollout_engine import EngineConfig, RolloutEngine
from squall.algorithms.confidence import answer_probability
from squall.jobs.question import SMALL_MAX_TOKENS, SMALL_POLICY, choose_frames, choose_model
from squall.jobs.sizing import measure_engine
from squall.platform.class_list import candidates, unknown_labels
from squall.platform.classifiers import ARCHITECTURES, ClassifierConfig, is_checkpoint, resolve_classifier
from squall.platform.errors import ConfigError
from squall.platform.models import ModelConfig, load_processor, resolve_model_path
from squall.platform.prompts import prompt_template
from squall.platform.records import VideoSample
from squall.platform.shapes import find_shape
from squall.platform.streaming import hash_file
from squall.platform.video import FrameSampling

if TYPE_CHECKING:
    from squall.jobs.evaluate_plan import EvaluateConfig

MAX_TOKENS = 1024

Reading = Callable[[VideoSample, Mapping[str, Any]], dict[str, float | None]]
"""``confidence`` and ``top5`` of an answer to a question, from what the journal has of it."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that can be asked: what its engines need, and what the report card says of it."""

    kind: Literal["vllm", "classifier", "endpoint"]
    label: str
    """What reports call it."""
    named: str
    """As the configuration does."""
    path: str
    """As engines take it."""
    engine_class: Any
    engine: EngineActorsConfig
    model: ModelConfig
    frames: FrameSampling
    prompt_template: str
    max_tokens: int
    classes: tuple[str, ...] = ()
    """Of a classifier."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the report card says of the model."""
        own = {"classes": list(self.classes)} if self.classes else {}
        return {"label": self.label, "kind": self.kind, "path": self.named, "hash": hash_model(Path(self.path))} | own

    def reading(self) -> Reading:
        """How sure the model was of its answers."""
        if self.kind == "classifier":
            return self._read_classes
        if self.kind == "endpoint":
            return lambda sample, given: {"confidence": math.exp(math.fsum(given["logprobs"])) if given["logprobs"] else None}
        processor = load_processor(self.path)
        tokenizer = getattr(processor, "tokenizer", processor)

        def decode(ids: Sequence[int]) -> str:
            return tokenizer.decode(ids, skip_special_tokens=True)

        return lambda sample, given: {
            "confidence": answer_probability(given["text"], given["token_ids"], given["logprobs"], decode)}

    def _read_classes(self, sample: VideoSample, given: Mapping[str, Any]) -> dict[str, float | None]:
        options = sample.options or (sample.solution,)
        right = [one.index for one in candidates(sample.id, options, self.classes) if one.answer == sample.solution]
        return {"confidence": math.exp(given["logprobs"][0]), "top5": float(bool(set(right) & set(given["token_ids"])))}


def find_model(config: EvaluateConfig, samples: Sequence[VideoSample]) -> EvaluatedModel:
    """Decide which kind the configuration names, check it, and size its engines for these questions.

    Raises:
        ConfigError: no such model, one that cannot be asked about video, or questions that it cannot answer.
        DataError: no clip can be read.
    """
    if config.endpoint is not None:
        return _endpoint(config, config.endpoint)
    classifier = config.classifier or _as_classifier(config.model.path)
    return _language_model(config, samples) if classifier is None else _classifier(config, classifier, samples)


def _as_classifier(path: str) -> ClassifierConfig | None:
    """The configuration of a directory that holds a video classifier; None for any other model."""
    if is_checkpoint(path):
        return ClassifierConfig()
    file = Path(path) / "config.json"
    try:
        kind = json.loads(file.read_bytes()).get("model_type") if file.is_file() else None
    except ValueError:
        return None
    return ClassifierConfig() if kind in ARCHITECTURES else None


def _language_model(config: EvaluateConfig, samples: Sequence[VideoSample]) -> EvaluatedModel:
    path = resolve_model_path(config.model.path)
    shape = find_shape(path)
    small = shape is not None and shape.parameters < SMALL_POLICY
    template = config.data.prompt_template or ("compact" if small else "video_r1")
    frames = choose_frames(config.data.frames, shape, small)
    max_tokens = config.max_tokens or (SMALL_MAX_TOKENS if small else MAX_TOKENS)
    engine = measure_engine(config.engine, path, samples, prompt_template(template), frames, max_tokens)
    return EvaluatedModel("vllm", short_name(config.model.path), config.model.path, path, RolloutEngine,
                          engine.model_copy(update={"raw_logprobs": True}), choose_model(config.model, path), frames, template,
                          max_tokens)


def _classifier(config: EvaluateConfig, classifier: ClassifierConfig, samples: Sequence[VideoSample]) -> EvaluatedModel:
    path, resolved = resolve_classifier(config.model.path, classifier)
    assert isinstance(resolved.classes, tuple)
    unknown = unknown_labels(samples, resolved.classes)
    fitting = [sample for sample in samples if not unknown.keys() & set(sample.options or (sample.solution,))]
    if not fitting:
        shown = ", ".join(f"'{label}'" for label, _ in unknown.most_common(3))
        raise ConfigError(f"model {config.model.path}: no question of the manifest has all its options among the model's "
                          f"{len(resolved.classes)} classes ({', '.join(resolved.classes[:5])} ...); not among them: {shown}")
    engine = ClassifierEngineConfig(classifier=resolved, **shared(config.engine))
    return EvaluatedModel("classifier", short_name(config.model.path), config.model.path, path, ClassifierEngine, engine,
                          config.model, config.data.frames, "compact", 1, resolved.classes)


def _endpoint(config: EvaluateConfig, endpoint: EndpointEngineConfig) -> EvaluatedModel:
    if config.model.path == ModelConfig().path:
        raise ConfigError("endpoint needs model.path: the name of the model there, such as model.path=gpt-4o")
    frames = config.data.frames
    if "max_frames" not in frames.model_fields_set:
        frames = frames.model_copy(update={"max_frames": endpoint.max_frames})
    return EvaluatedModel("endpoint", f"{config.model.path} at {endpoint.base_url}", config.model.path, config.model.path,
                          EndpointEngine, endpoint, config.model, frames, config.data.prompt_template or "video_r1",
                          config.max_tokens or MAX_TOKENS)


def shared(engine: EngineConfig) -> dict[str, Any]:
    """What the section `engine` says that holds for engines of every kind.

    Raises:
        ConfigError: it says what vLLM alone knows.
    """
    for key, field in EngineConfig.model_fields.items():
        if key not in EngineActorsConfig.model_fields and getattr(engine, key) != field.default:
            raise ConfigError(f"engine.{key} is vLLM's, and the model is a classifier; of `engine` it knows "
                              f"{', '.join(EngineActorsConfig.model_fields)}")
    return {key: getattr(engine, key) for key in EngineActorsConfig.model_fields}


def short_name(path: str) -> str:
    """What a report calls a model: of a directory its name, of a run's checkpoint also the run's; other paths as they are."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    resolved = folder.resolve()
    return f"{resolved.parents[1].name}/{resolved.name}" if resolved.parent.name == "checkpoints" else resolved.name


def hash_model(folder: Path) -> str | None:
    """32 hex digits over the names and bytes of a model directory's files; None for what is no directory here."""
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)} {hash_file(file)}\n".encode())
    return digest.hexdigest()
