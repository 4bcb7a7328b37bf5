"""Image and clip classifiers behind one interface, whoever made them: pixels in [0, 1] in, logits out.

A checkpoint of Squall is a folder with ``model.safetensors`` and ``classifier.json``, which says how to build the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from squall.platform.class_list import class_indices, read_classes
from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError
from squall.platform.networks import PREFIXES, NetworkConfig, probe
from squall.platform.runs import to_json, write_text
from squall.platform.video import replacing

if TYPE_CHECKING:
    import torch

WEIGHTS, FACTS = "model.safetensors", "classifier.json"

Kind = Literal["checkpoint", "torchvision", "timm", "callable"]

_BELONGS: Mapping[str, tuple[Kind, ...]] = {
    **dict.fromkeys(("weights", "classes", "shape"), ("torchvision", "timm", "callable")),
    **dict.fromkeys(("mean", "std", "arguments"), ("torchvision", "timm")),
}
_NEEDED: Mapping[Kind, tuple[str, ...]] = {
    **dict.fromkeys(("torchvision", "timm"), ("weights", "classes", "shape")), "callable": ("classes", "shape"),
}


class ImageModelConfig(Config):
    """Which classifier is opened, and what its files do not say."""

    path: str
    """Checkpoint folder, `torchvision:NAME` or `timm:NAME` with `weights`, or a `module:function` that returns a torch module,
    which takes images in [0, 1] and normalises them itself."""
    kind: Literal["auto", "checkpoint", "torchvision", "timm", "callable"] = "auto"
    """What `path` is; `auto` goes by its form."""
    weights: Path | None = None
    """State dict for a torchvision or timm model, or for what a callable returns: .safetensors, or .pt and .pth if they hold
    tensors alone."""
    classes: tuple[str, ...] | Path | None = None
    """Names of the classes in the order of the outputs, or a file with them. A checkpoint brings its own."""
    shape: tuple[int, ...] | None = None
    """Of one image [channels, height, width], or of one clip [channels, frames, height, width]. A checkpoint brings its own."""
    mean: tuple[float, ...] | None = None
    """torchvision and timm: what each channel was normalised with in training; by default what the library's own weights of
    that model were."""
    std: tuple[float, ...] | None = None
    """torchvision and timm: by default as for the mean."""
    arguments: dict[str, Any] = {}
    """torchvision and timm: further arguments of the model's constructor."""

    @property
    def resolved_kind(self) -> Kind:
        """What `path` is."""
        if self.kind != "auto":
            return self.kind
        prefix, separator, _ = self.path.partition(":")
        if not separator or Path(self.path).exists():
            return "checkpoint"
        return prefix if prefix in PREFIXES else "callable"

    @model_validator(mode="after")
    def _fitting(self) -> ImageModelConfig:
        kind = self.resolved_kind
        for name, kinds in _BELONGS.items():
            if kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to kind {' or '.join(kinds)}, and {self.path} is a {kind}")
        for name in _NEEDED.get(kind, ()):
            if getattr(self, name) is None:
                raise ValueError(f"a {kind} model needs {name}")
        if self.shape is not None and (len(self.shape) not in (3, 4) or min(self.shape) < 1):
            raise ValueError(f"shape {list(self.shape)}: not [channels, height, width] or [channels, frames, height, width]")
        return self


class CheckpointFacts(Config):
    """``classifier.json`` of a checkpoint folder: the arguments of `build_network`, and what is known of the training."""

    version: Literal[1] = 1
    """Of this format."""
    network: NetworkConfig
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each channel of the training images."""
    std: tuple[float, ...]
    training: dict[str, Any] = {}
    """Facts that do not change what the classifier says."""


@dataclass(frozen=True)
class ImageClassifier:
    """A classifier that can be asked and attacked."""

    module: torch.nn.Module
    """In evaluation mode; float32 (B, \\*shape) in [0, 1] to logits (B, K). Its weights need no gradient."""
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of one image (C, H, W), or one clip (C, T, H, W)."""
    hash: str
    """32 hex digits over weights and settings."""
    description: str
    training: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint says of how it was trained."""


def save_image_classifier(
    folder: Path, module: torch.nn.Module, network: NetworkConfig, classes: Sequence[str], shape: Sequence[int],
    mean: Sequence[float], std: Sequence[float], training: Mapping[str, Any],
) -> None:
    """Write a checkpoint folder; ``classifier.json`` comes last, so that a folder with it is whole.

    Of a clip network the folder also gets what `squall evaluate` opens (`squall.platform.classifier_export`).

    Args:
        module: what `build_network` made of the same `network`, `shape`, number of `classes`, `mean` and `std`, trained.
        training: facts such as the objective, epochs and seed; they do not enter the hash.
    """
    from safetensors.torch import save_file

    from squall.platform.classifier_export import export_clip_classifier

    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    export_clip_classifier(folder, module, network, classes, shape)
    facts = CheckpointFacts(network=network, shape=tuple(shape), classes=tuple(classes), mean=tuple(mean), std=tuple(std),
                            training=dict(training))
    write_text(folder / FACTS, to_json(facts.model_dump(), indent=2) + "\n")


def read_facts(folder: Path) -> CheckpointFacts:
    """What the ``classifier.json`` of a checkpoint folder says.

    Raises:
        ConfigError: it is no such folder, or it is damaged.
    """
    if folder.is_file():
        raise ConfigError(f"model {folder}: a file, and a checkpoint is a folder with {WEIGHTS} and {FACTS}; give the file as "
                          "weights, best as safetensors, and its network as path: torchvision:NAME, timm:NAME, module:function")
    missing = next((name for name in (FACTS, WEIGHTS) if not (folder / name).is_file()), None)
    if missing:
        problem = f"no {missing} in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"model {folder}: {problem}; expected a checkpoint folder, torchvision:NAME, timm:NAME or "
                          "module:function")
    try:
        values = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model {folder}: {FACTS} is not JSON: {error}") from None
    return validate(CheckpointFacts, values, where=str(folder / FACTS))


def resolve_image_model(config: ImageModelConfig) -> ImageModelConfig:
    """The same model with its kind decided, its classes by name and its files by absolute path, as workers need it.

    Raises:
        ConfigError: the file of classes cannot be read, or names one twice.
    """
    kind = config.resolved_kind
    classes = None if config.classes is None else read_classes(config.classes)
    if classes is not None:
        class_indices(classes)
    return config.model_copy(update={
        "kind": kind, "path": str(Path(config.path).resolve()) if kind == "checkpoint" else config.path, "classes": classes,
        "weights": config.weights and config.weights.resolve()})


def open_image_classifier(config: ImageModelConfig, device: str = "cpu") -> ImageClassifier:
    """The classifier of a configuration on a torch device.

    Raises:
        ConfigError: there is no such model, its weights cannot be read or do not fit, or it does not take such images.
    """
    from squall.platform import image_classifier_kinds as kinds

    openers = {"checkpoint": kinds.open_checkpoint, "callable": kinds.open_callable}
    resolved = resolve_image_model(config)
    opened = openers.get(resolved.kind, kinds.open_published)(resolved)
    module = opened.module.to(device).eval().requires_grad_(False)
    probe(module, opened.shape, len(opened.classes), f"model {config.path}")
    return opened
