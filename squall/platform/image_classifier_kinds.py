"""The kinds of image classifier that `squall.platform.image_classifiers.open_image_classifier` opens."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from squall.platform.classifier_kinds import read_state
from squall.platform.errors import ConfigError
from squall.platform.image_classifiers import WEIGHTS, CheckpointFacts, ImageClassifier, ImageModelConfig, read_facts
from squall.platform.networks import NetworkConfig, build_network, check_network, published_statistics
from squall.platform.plugins import import_function
from squall.platform.streaming import hash_file


def load_checkpoint(folder: Path) -> tuple[torch.nn.Module, CheckpointFacts]:
    """The network of a checkpoint folder, ready to be trained on, and what its ``classifier.json`` says.

    Raises:
        ConfigError: it is no such folder, it is damaged, or its weights do not fit.
    """
    facts = read_facts(folder)
    module = build_network(facts.network, facts.shape, len(facts.classes), facts.mean, facts.std)
    _load(module, folder / WEIGHTS, f"model {folder}")
    return module, facts


def open_checkpoint(config: ImageModelConfig) -> ImageClassifier:
    """A folder of `squall.platform.image_classifiers.save_image_classifier`."""
    module, facts = load_checkpoint(Path(config.path))
    settings = facts.model_dump(mode="json", exclude={"version", "training"})
    objective = facts.training.get("objective")
    description = _describe(facts.network.architecture, module) + (f", trained by {objective}" if objective else "")
    return ImageClassifier(module, facts.classes, facts.shape, _hash(module, settings), description, facts.training)


def open_published(config: ImageModelConfig) -> ImageClassifier:
    """A torchvision or timm model with a state dict of the user's. The configuration is resolved, as for the others."""
    assert config.shape is not None and isinstance(config.classes, tuple) and config.weights is not None
    kind, classes = config.kind, config.classes
    network = NetworkConfig(architecture=f"{kind}:{config.path.removeprefix(f'{kind}:')}", arguments=config.arguments,
                            mean=config.mean, std=config.std)
    check_network(network, config.shape)
    module = build_network(network, config.shape, len(classes), *_statistics(network, config.shape[0]))
    _load(module.network, config.weights, f"weights = {config.weights}")
    settings = {"network": network.model_dump(mode="json"), "shape": config.shape, "classes": classes}
    return ImageClassifier(module, classes, config.shape, _hash(module, settings), _describe(network.architecture, module))


def open_callable(config: ImageModelConfig) -> ImageClassifier:
    """What a function of the user's returns."""
    assert config.shape is not None and isinstance(config.classes, tuple)
    classes = config.classes
    function = import_function("model", config.path)
    try:
        module = function()
    except Exception as error:
        raise ConfigError(f"model {config.path}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"model {config.path}: returned a {type(module).__name__}; expected a torch.nn.Module that takes "
                          "images in [0, 1]")
    if config.weights is not None:
        _load(module, config.weights, f"weights = {config.weights}")
    settings = {"callable": config.path, "source": _source(function), "shape": config.shape, "classes": classes}
    return ImageClassifier(module, classes, config.shape, _hash(module, settings), _describe(config.path, module))


def _load(module: torch.nn.Module, file: Path, name: str) -> None:
    try:
        module.load_state_dict(read_state(file))
    except RuntimeError as error:
        problem = " ".join(str(error).split()).split(": ", 1)[-1][:250]
        raise ConfigError(f"{name}: do not fit the network: {problem}") from None


def _statistics(network: NetworkConfig, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a published model's images were normalised with. To guess it wrongly would make the model look worse than it is."""
    if network.mean is not None and network.std is not None:
        return network.mean, network.std
    published = published_statistics(network.architecture)
    if published is None or channels != 3:
        raise ConfigError(f"model {network.architecture}: say with which mean and std its images were normalised in training; "
                          f"none are published for {channels} channel{'s' if channels > 1 else ''}")
    return published


def _describe(name: str, module: torch.nn.Module) -> str:
    return f"{name}, {sum(parameter.numel() for parameter in module.parameters()):,} parameters"


def _source(function: Any) -> str:
    """Hash of the file that a function stands in, so that a changed model is another model; empty where there is no file."""
    try:
        return hash_file(Path(inspect.getsourcefile(function) or ""))
    except (TypeError, OSError):
        return ""


def _hash(module: torch.nn.Module, settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
