"""Image and clip classifiers behind one interface, whoever made them: pixels in [0, 1] in, logits out.

A checkpoint of Squall is a folder with ``model.safetensors`` and ``classifier.json``, which says how to build the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from squall.platform.class_list import class_indices, read_classes
from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError
from squall.platform.networks import PREFIXES, NetworkConfig, build_network, probe
from squall.platform.runs import to_json, write_text
from squall.platform.video import replacing

if TYPE_CHECKING:
    import torch

WEIGHTS, FACTS = "model.safetensors", "classifier.json"
VERSION = 1
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Kind = Literal["checkpoint", "torchvision", "timm", "callable"]


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
    """torchvision and timm: what each channel was normalised with in training; by default ImageNet's."""
    std: tuple[float, ...] | None = None
    """torchvision and timm: by default ImageNet's."""
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
        published, given = kind in PREFIXES, self.model_fields_set
        allowed = {"weights": kind != "checkpoint", "classes": kind != "checkpoint", "shape": kind != "checkpoint",
                   "mean": published, "std": published, "arguments": published}
        for name, fits in allowed.items():
            if name in given and not fits:
                raise ValueError(f"{name} does not belong to a {kind}, which {self.path} is")
        for name in ("weights", "classes", "shape") if published else ("classes", "shape") if kind == "callable" else ():
            if getattr(self, name) is None:
                raise ValueError(f"a {kind} model needs {name}")
        if self.shape is not None and (len(self.shape) not in (3, 4) or min(self.shape) < 1):
            raise ValueError(f"shape {list(self.shape)}: expected [channels, height, width] or [channels, frames, height, width]")
        return self


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

    Args:
        module: what `build_network` made of `network`, `shape`, the number of `classes`, `mean` and `std`, trained.
        training: facts such as the objective, epochs and seed; they do not enter the hash.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    facts = {"version": VERSION, "network": network.model_dump(mode="json"), "shape": list(shape), "classes": list(classes),
             "mean": list(mean), "std": list(std), "training": dict(training)}
    write_text(folder / FACTS, to_json(facts, indent=2) + "\n")


def open_image_classifier(config: ImageModelConfig, device: str = "cpu") -> ImageClassifier:
    """The classifier of a configuration on a torch device.

    Raises:
        ConfigError: there is no such model, its weights cannot be read or do not fit, or it does not take such images.
    """
    opened = {"checkpoint": _open_checkpoint, "callable": _open_callable}.get(config.resolved_kind, _open_published)(config)
    module = opened.module.to(device).eval().requires_grad_(False)
    probe(module, opened.shape, len(opened.classes), f"model {config.path}")
    return opened


def load_checkpoint(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network of a checkpoint folder, ready to be trained on, and what its ``classifier.json`` says.

    Raises:
        ConfigError: as `open_image_classifier`.
    """
    facts = _read_facts(folder)
    network = validate(NetworkConfig, facts["network"], where=f"{folder / FACTS}: network")
    module = build_network(network, facts["shape"], len(facts["classes"]), facts["mean"], facts["std"])
    _load(module, folder / WEIGHTS, f"model {folder}")
    return module, facts


def _open_checkpoint(config: ImageModelConfig) -> ImageClassifier:
    module, facts = load_checkpoint(Path(config.path))
    settings = {key: facts[key] for key in ("network", "shape", "classes", "mean", "std")}
    objective = facts["training"].get("objective")
    description = f"{_describe(facts['network']['architecture'], module)}{f', trained by {objective}' if objective else ''}"
    return ImageClassifier(module, tuple(facts["classes"]), tuple(facts["shape"]), _hash(module, settings), description,
                           facts["training"])


def _open_published(config: ImageModelConfig) -> ImageClassifier:
    assert config.shape is not None and config.classes is not None and config.weights is not None
    kind, classes = config.resolved_kind, _classes(config)
    network = NetworkConfig(architecture=f"{kind}:{config.path.removeprefix(f'{kind}:')}", arguments=config.arguments)
    mean, std = (given or _of_channels(usual, config.shape)
                 for given, usual in ((config.mean, IMAGENET_MEAN), (config.std, IMAGENET_STD)))
    module = build_network(network, config.shape, len(classes), mean, std)
    _load(module.network, config.weights, f"weights = {config.weights}")
    settings = {"network": network.model_dump(mode="json"), "shape": config.shape, "classes": classes}
    return ImageClassifier(module, classes, config.shape, _hash(module, settings), _describe(network.architecture, module))


def _open_callable(config: ImageModelConfig) -> ImageClassifier:
    import torch

    from squall.platform.plugins import import_function

    assert config.shape is not None
    classes = _classes(config)
    function = import_function("model", config.path)
    module = function()
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"model {config.path}: returned a {type(module).__name__}; expected a torch.nn.Module that takes "
                          "images in [0, 1]")
    if config.weights is not None:
        _load(module, config.weights, f"weights = {config.weights}")
    settings = {"callable": config.path, "source": _source(function), "shape": config.shape, "classes": classes}
    return ImageClassifier(module, classes, config.shape, _hash(module, settings), _describe(config.path, module))


def _read_facts(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        raise ConfigError(f"model {folder}: a file, and a checkpoint is a folder with {WEIGHTS} and {FACTS}; give the file as "
                          "weights, best as safetensors, and its network as path: torchvision:NAME, timm:NAME or module:function")
    missing = next((name for name in (FACTS, WEIGHTS) if not (folder / name).is_file()), None)
    if missing:
        problem = f"no {missing} in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"model {folder}: {problem}; expected a checkpoint folder, torchvision:NAME, timm:NAME or "
                          "module:function")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model {folder}: {FACTS} is not JSON: {error}") from None
    kinds = {"network": dict, "shape": list, "classes": list, "mean": list, "std": list, "training": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(facts, dict) or not isinstance(facts.get(key), kind)]
    if wrong or facts.get("version") != VERSION:
        problem = f"lacks {', '.join(wrong)}" if wrong else f"has version {facts.get('version')}, this Squall reads {VERSION}"
        raise ConfigError(f"model {folder}: {FACTS} {problem}")
    return facts


def _load(module: torch.nn.Module, file: Path, name: str) -> None:
    from squall.platform.classifier_kinds import read_state

    try:
        module.load_state_dict(read_state(file))
    except RuntimeError as error:
        problem = " ".join(str(error).split()).split(": ", 1)[-1][:250]
        raise ConfigError(f"{name}: do not fit the network: {problem}") from None


def _classes(config: ImageModelConfig) -> tuple[str, ...]:
    assert config.classes is not None
    classes = read_classes(config.classes)
    class_indices(classes)
    return classes


def _of_channels(usual: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """ImageNet's figure for every channel; its mean over colours where there are not three."""
    return usual if shape[0] == 3 else (sum(usual) / 3,) * shape[0]


def _describe(name: str, module: torch.nn.Module) -> str:
    return f"{name}, {sum(parameter.numel() for parameter in module.parameters()):,} parameters"


def _source(function: Any) -> str:
    """Hash of the file that a function stands in, so that a changed model is another model; empty where there is no file."""
    import inspect

    from squall.platform.streaming import hash_file

    try:
        return hash_file(Path(inspect.getsourcefile(function) or ""))
    except (TypeError, OSError):
        return ""


def _hash(module: torch.nn.Module, settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(_bytes()).numpy())
    return digest.hexdigest()


def _bytes() -> torch.dtype:
    import torch

    return torch.uint8
