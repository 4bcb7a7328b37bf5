"""Video classifiers behind one interface, whoever made them: clips in, a probability for every class out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from squall.platform.class_list import class_indices, read_classes
from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError, nearest
from squall.platform.image_classifiers import FACTS, read_facts
from squall.platform.models import SUPPORTED as LANGUAGE_MODELS

Clips = np.ndarray | Sequence[np.ndarray]
"""uint8 (B, T, H, W, 3) RGB, or B clips (T, H, W, 3) of different lengths and sizes."""

ARCHITECTURES = ("videomae", "timesformer", "vivit")
PUBLISHED_FRAMES: Mapping[str, int] = {
    "r3d_18": 16, "mc3_18": 16, "r2plus1d_18": 16, "s3d": 128, "mvit_v1_b": 16, "mvit_v2_s": 16,
    "swin3d_t": 32, "swin3d_s": 32, "swin3d_b": 32,
}
"""torchvision's video models, and the frames of a clip (``clip_len``) with which each published accuracy was measured."""

_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "weights": ("torchvision",), "frames": ("torchvision", "callable"), "returns": ("callable",),
    "dtype": ("huggingface", "torchvision", "auto"),
}
_FOLDERS = ("auto", "checkpoint", "huggingface")
"""Kinds whose files name the classes."""


class VideoClassifier(Protocol):
    """A model that gives every class of a fixed list a probability."""

    classes: tuple[str, ...]
    frame_count: int | None
    """Frames that the model sees: those of a clip's frames that lie evenly from its first to its last, some of them twice
    where it has fewer. None sees a clip as it is."""

    def probabilities(self, clips: Clips) -> np.ndarray:
        """float32 (B, K); rows sum to 1.

        Raises:
            DataError: what the model says of a clip is not finite (reason ``bad_output``).
            ConfigError: its output has another shape, or is no probability.
        """
        ...


class ClassifierConfig(Config):
    """What kind of classifier a model is, and what its files do not say."""

    kind: Literal["auto", "checkpoint", "huggingface", "torchvision", "callable"] = "auto"
    """`checkpoint` is a folder that Squall wrote, with a network of clips, `huggingface` a directory or hub id of VideoMAE,
    TimeSformer or ViViT, and `auto` either of them, by its files. `torchvision` is one of its video models by name, such as
    r3d_18, `callable` a `module:function` that is given uint8 clips (B, T, H, W, 3) and returns (B, classes)."""
    weights: Path | None = None
    """torchvision: file with the state dict, .safetensors, or .pt and .pth if they hold tensors alone."""
    classes: tuple[str, ...] | Path | None = None
    """Names of the classes in the order of the model's outputs, or a file with them: a JSON list, or one a line. Checkpoints
    and Hugging Face models bring theirs; names given here take their place."""
    frames: int | None = Field(None, ge=1)
    """Frames that a clip is resampled to. By default what torchvision published its model with; for a callable, none."""
    returns: Literal["probabilities", "logits"] = "probabilities"
    """What a callable returns."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and activations."""

    @model_validator(mode="after")
    def _fitting(self) -> ClassifierConfig:
        for name, kinds in _DEFAULTS.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to kind {' or '.join(kinds)}, and kind is {self.kind}")
        if self.kind == "torchvision" and self.weights is None:
            raise ValueError("kind torchvision needs weights: a file with the model's state dict")
        if self.kind not in _FOLDERS and self.classes is None:
            raise ValueError(f"kind {self.kind} needs classes: a list of names, or a file with them")
        return self


def check_classifier(path: str, config: ClassifierConfig) -> tuple[str, ...]:
    """The classes of a model, read from its small files; no weights are loaded. Of a hub id, from its ``config.json``.

    Raises:
        ConfigError: it cannot classify video, or a file is missing; the message says what it is instead.
    """
    config = _settled(path, config)
    if config.kind == "torchvision":
        _check_torchvision(path, config)
    if config.kind == "callable" and not re.fullmatch(r"[\w.]+:\w+", path):
        raise ConfigError(f"model '{path}': expected module:function, importable here and by the workers")
    own = _own_classes(path, config)
    classes = own if config.classes is None else read_classes(config.classes)
    if own and len(own) != len(classes):
        raise ConfigError(f"model {path} has {len(own)} outputs, and classes names {len(classes)}")
    class_indices(classes)
    return classes


def resolve_classifier(path: str, config: ClassifierConfig) -> tuple[str, ClassifierConfig]:
    """The same model and configuration with its classes by name and its files by absolute path, as workers need them.

    Raises:
        ConfigError: as `check_classifier` does.
    """
    found = {"classes": check_classifier(path, config), "weights": config.weights and config.weights.resolve()}
    config = _settled(path, config)
    local = config.kind in _FOLDERS and Path(path).exists()
    return str(Path(path).resolve()) if local else path, config.model_copy(update=found)


def open_classifier(path: str, config: ClassifierConfig, device: str = "cpu") -> VideoClassifier:
    """The classifier of a configuration on a torch device. A callable chooses its own.

    Raises:
        ConfigError: as `check_classifier` does, and for weights that cannot be read or do not fit.
    """
    from squall.platform import classifier_kinds as kinds

    classes = check_classifier(path, config)
    config = _settled(path, config)
    if config.kind == "checkpoint":
        return kinds.CheckpointClassifier(Path(path), classes, device)
    if config.kind == "torchvision":
        assert config.weights is not None
        return kinds.TorchvisionClassifier(path, config.weights, classes, config.frames or PUBLISHED_FRAMES[path],
                                           config.dtype, device)
    if config.kind == "callable":
        return kinds.CallableClassifier(path, classes, config.frames, config.returns == "logits")
    return kinds.HuggingFaceClassifier(path, classes, config.dtype, device)


def try_classifier(classifier: VideoClassifier) -> None:
    """Classify one clip of noise. Raises ConfigError, which says what is wrong, where that fails."""
    frames = np.random.default_rng(0).integers(0, 256, (classifier.frame_count or 8, 64, 64, 3), np.uint8)
    try:
        classifier.probabilities(frames[None])
    except ConfigError:
        raise
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"the model cannot classify a clip of shape {frames.shape}: {type(error).__name__}: {problem}"
                          ) from None


def is_checkpoint(path: str) -> bool:
    """Whether a model is a folder that Squall wrote, as whole as `save_image_classifier` leaves it."""
    return (Path(path) / FACTS).is_file()


def _settled(path: str, config: ClassifierConfig) -> ClassifierConfig:
    """The configuration with its kind decided."""
    if config.kind != "auto":
        return config
    kind = "checkpoint" if is_checkpoint(path) else "huggingface"
    return validate(ClassifierConfig, {**config.model_dump(exclude_unset=True), "kind": kind}, f"model {path}")


def _own_classes(path: str, config: ClassifierConfig) -> tuple[str, ...]:
    """Class names by the model's own files; none of a kind that has no such files."""
    if config.kind == "huggingface":
        return _huggingface_classes(path, named=config.classes is not None)
    if config.kind != "checkpoint":
        return ()
    facts = read_facts(Path(path))
    if len(facts.shape) != 4 or facts.shape[0] != 3:
        what = "clips" if len(facts.shape) == 4 else "images"
        raise ConfigError(f"model {path}: a network of {what} of shape {list(facts.shape)}; a video classifier takes clips "
                          "[3, frames, height, width]")
    return facts.classes


def _check_torchvision(name: str, config: ClassifierConfig) -> None:
    if name not in PUBLISHED_FRAMES:
        raise ConfigError(f"model '{name}': torchvision has no video model of that name.{nearest(name, PUBLISHED_FRAMES)} "
                          f"Allowed: {', '.join(PUBLISHED_FRAMES)}")
    file = config.weights
    if file is None or not file.is_file() or file.suffix not in (".safetensors", ".pt", ".pth"):
        raise ConfigError(f"weights = {file}: expected a file with a state dict, .safetensors, .pt or .pth")


def _huggingface_classes(path: str, named: bool) -> tuple[str, ...]:
    """Class names by a model directory's own files; `named` says that others will take their place."""
    values = read_model_config(path)
    kind, made_for = values.get("model_type"), ", ".join(values.get("architectures") or ()) or "an unknown architecture"
    if kind in LANGUAGE_MODELS:
        raise ConfigError(f"model {path}: {made_for} answers questions in words and is no classifier; take it as a vLLM model")
    if kind not in ARCHITECTURES:
        raise ConfigError(f"model {path}: model_type '{kind}' ({made_for}) does not classify video; supported: "
                          f"{', '.join(ARCHITECTURES)}")
    if "ForVideoClassification" not in made_for:
        raise ConfigError(f"model {path}: {made_for} has no trained classification head; expected one ForVideoClassification")
    if Path(path).exists() and not (Path(path) / "preprocessor_config.json").is_file():
        raise ConfigError(f"model {path}: no preprocessor_config.json; copy it from the original model")
    labels = values.get("id2label") or {}
    names = tuple(str(labels.get(str(index))) for index in range(len(labels)))
    if not named and (not labels or "None" in names):
        raise ConfigError(f"model {path}: config.json names no classes (id2label); list them in classes")
    return names


def read_model_config(path: str) -> dict[str, Any]:
    """The config.json of a Hugging Face directory or hub id. Raises ConfigError."""
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")):
            raise ConfigError(f"model {path}: no such directory; give a Hugging Face directory or id")
        return _read_hub_config(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model {path}: no config.json; expected a Hugging Face directory of a video model")
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model {path}: config.json is not JSON: {error}") from None


def _read_hub_config(name: str) -> dict[str, Any]:
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{name}': no such directory, and no model of the hub that can be reached: "
                          f"{' '.join(str(error).split())[:150]}") from None
