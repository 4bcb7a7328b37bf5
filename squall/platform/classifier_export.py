"""Clip networks in the forms that `squall evaluate` and others open, beside their checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from squall.platform.networks import NetworkConfig, published_name, published_statistics
from squall.platform.runs import to_json, write_text
from squall.platform.video import replacing

if TYPE_CHECKING:
    import torch

HUGGING_FACE, TORCHVISION, CLASSES = "huggingface", "torchvision.safetensors", "classes.json"


def export_clip_classifier(folder: Path, module: torch.nn.Module, network: NetworkConfig, classes: Sequence[str],
                           shape: Sequence[int]) -> None:
    """Write what other programs open of a network of RGB clips into `folder`; nothing of any other network.

    videomae becomes a directory ``huggingface`` that holds its classes and normalisation. A video model of torchvision becomes
    ``torchvision.safetensors`` and ``classes.json``, if it was normalised as torchvision normalises: a state dict does not say.
    """
    if len(shape) != 4 or shape[0] != 3:
        return
    if network.architecture == "videomae":
        _export_videomae(folder / HUGGING_FACE, module, classes, shape)
    elif published_name(network.architecture) and _normalised_as_published(module, network.architecture):
        from safetensors.torch import save_file

        with replacing(folder / TORCHVISION) as temporary:
            save_file(plain_copy(module.network).state_dict(), temporary)
        write_text(folder / CLASSES, to_json(list(classes)) + "\n")


def plain_copy(network: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU, in evaluation mode, whose spectrally normalised weights are plain ones."""
    from torch.nn.utils import parametrize

    plain = copy.deepcopy(network).cpu().eval()
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return plain


def _export_videomae(folder: Path, module: torch.nn.Module, classes: Sequence[str], shape: Sequence[int]) -> None:
    from transformers import VideoMAEImageProcessor

    model = plain_copy(module.network.model)
    model.config.id2label = dict(enumerate(classes))
    model.config.label2id = {name: index for index, name in enumerate(classes)}
    model.save_pretrained(folder)
    _, _, height, width = shape
    VideoMAEImageProcessor(
        size={"shortest_edge": height}, crop_size={"height": height, "width": width},
        image_mean=module.mean.flatten().tolist(), image_std=module.std.flatten().tolist(),
    ).save_pretrained(folder)


def _normalised_as_published(module: torch.nn.Module, architecture: str) -> bool:
    import torch

    published = published_statistics(architecture)
    own = (module.mean, module.std)
    return published is not None and all(
        torch.allclose(tensor.flatten().cpu(), torch.tensor(values)) for tensor, values in zip(own, published, strict=True))
