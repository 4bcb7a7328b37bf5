"""Video encoders that were trained already, and classifiers on them, as Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squall.actors.masked_video_files import FACTS, processor_config
from squall.algorithms.masked_video.autoencoder_config import IMAGENET_MEAN, IMAGENET_STD, AutoencoderConfig
from squall.platform.classifiers import read_model_config
from squall.platform.errors import ConfigError
from squall.platform.runs import to_json, write_text

if TYPE_CHECKING:
    from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
    from squall.algorithms.masked_video.finetune import ClipClassifier

PROCESSOR = "preprocessor_config.json"


def encoder_config(path: str) -> AutoencoderConfig:
    """The sizes of an encoder, by its small files; no weights are loaded.

    Args:
        path: folder ``models/ARM/seed-S`` of `squall train tats`, or any VideoMAE as a Hugging Face folder or hub id.

    Raises:
        ConfigError: it is no VideoMAE, or one with other parts.
    """
    from transformers import VideoMAEConfig

    from squall.algorithms.masked_video.videomae import autoencoder_config

    values = read_model_config(path)
    if values.get("model_type") != "videomae":
        raise ConfigError(f"encoder {path}: model_type '{values.get('model_type')}' is no VideoMAE; give models/ARM/seed-S of "
                          "`squall train tats`, or a Hugging Face folder of VideoMAE")
    mean, std = _normalisation(path)
    return autoencoder_config(VideoMAEConfig(**values).to_dict(), mean, std, f"encoder {path}")


def open_encoder(path: str) -> MaskedAutoencoder:
    """An autoencoder with the encoder's weights; what the files lack of the rest is new.

    Raises:
        ConfigError: as `encoder_config`, and for weights that cannot be read.
        DataError: weights are missing, or of another size (reason ``bad_checkpoint``).
    """
    from safetensors import SafetensorError
    from transformers import VideoMAEModel

    from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
    from squall.algorithms.masked_video.videomae import from_videomae

    module = MaskedAutoencoder(encoder_config(path))
    try:
        model, report = VideoMAEModel.from_pretrained(path, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"encoder {path}: cannot be loaded: {' '.join(str(error).split())[:250]}") from None
    if report["missing_keys"]:
        raise ConfigError(f"encoder {path}: its file lacks {', '.join(sorted(report['missing_keys'])[:3])}; they would be "
                          "random numbers")
    from_videomae(module, model.state_dict(), f"encoder {path}")
    return module


def save_clip_classifier(folder: Path, module: ClipClassifier, classes: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write a Hugging Face VideoMAEForVideoClassification, and in ``squall.json`` how it came about."""
    from safetensors.torch import save_file

    from squall.algorithms.masked_video.videomae import videomae_config

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu().contiguous() for name, value in module.to_videomae().items()}
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    files = {"config.json": {"model_type": "videomae", "architectures": ["VideoMAEForVideoClassification"], "dtype": "float32",
                             **videomae_config(module.config, "classification", **names)},
             PROCESSOR: processor_config(module.config), FACTS: {"kind": "video_classifier", "training": dict(facts)}}
    for name, values in files.items():
        write_text(folder / name, to_json(values, indent=2) + "\n")


def _normalisation(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that pixels were normalised with: as the folder or the hub says, or ImageNet's."""
    from transformers.utils import cached_file

    try:
        found = cached_file(path, PROCESSOR, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise ConfigError(f"encoder {path}: what its pixels are normalised by cannot be found out ({PROCESSOR}): "
                          f"{' '.join(str(error).split())[:150]}") from None
    if found is None:
        return IMAGENET_MEAN, IMAGENET_STD
    file = Path(found)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return tuple(values.get("image_mean", IMAGENET_MEAN)), tuple(values.get("image_std", IMAGENET_STD))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); copy it from the original model") from None
