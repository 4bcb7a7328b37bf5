"""What a training of a masked autoencoder writes: checkpoints to go on from, and a model folder that opens anywhere.

A model folder is a Hugging Face VideoMAEForPreTraining (``config.json``, ``model.safetensors``, ``preprocessor_config.json``)
with the sampler's weights (``sampler.safetensors``) and, in ``squall.json``, how both came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squall.platform.runs import to_json, write_text

if TYPE_CHECKING:
    import torch

    from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
    from squall.algorithms.masked_video.step import JointTraining

FACTS, SAMPLER = "squall.json", "sampler.safetensors"


def write_checkpoint(training: JointTraining, totals: Mapping[str, Any], folder: Path) -> None:
    """Write under ``trainer`` what it takes to go on, with any number of workers; every worker calls it, rank 0 writes.

    Args:
        totals: what the training took so far, given back by `restore_checkpoint`.
    """
    from squall.platform.checkpoints import TRAINER, write_tensors

    writes = training.share.rank == 0
    tensors = chain(_under("autoencoder", training.descent.state(writes)), _under("sampler", _sampler_state(training)))
    if writes:
        write_tensors(folder / TRAINER, ((name, value.cpu()) for name, value in tensors),
                      {"numbers": training.numbers(), "totals": dict(totals)})
    else:
        for _ in tensors:  # what is sharded is gathered by all
            pass


def restore_checkpoint(training: JointTraining, checkpoint: Path) -> dict[str, Any]:
    """Go on from a checkpoint; returns its totals. Raises SquallError where it is of another size."""
    from squall.algorithms.masked_video.gradients import restore_state
    from squall.platform.checkpoints import TRAINER, StoredTensors
    from squall.platform.errors import SquallError

    stored = StoredTensors(checkpoint / TRAINER)
    parts = {part: {name.removeprefix(f"{part}/"): stored[name] for name in stored if name.startswith(f"{part}/")}
             for part in ("autoencoder", "sampler")}
    try:
        training.load_numbers(stored.metadata["numbers"])
        training.descent.restore(parts["autoencoder"], training.step)
        if training.learner is not None:
            restore_state(training.sampler, training.learner.optimiser, parts["sampler"], training.learner.updates)
    except SquallError as error:
        raise SquallError(f"{checkpoint}: {error}") from None
    return stored.metadata["totals"]


def save_model(training: JointTraining, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the model folder; nothing of transformers is imported, which takes seconds."""
    from safetensors.torch import save_file

    from squall.algorithms.masked_video.videomae import to_videomae

    config = training.config.autoencoder
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in to_videomae(training.autoencoder, "pretraining").items()},
              str(folder / "model.safetensors"), {"format": "pt"})
    _write_json(folder / "config.json", model_config(config))
    _write_json(folder / "preprocessor_config.json", processor_config(config))
    if training.sampler.learns:
        save_file({name: value.detach().cpu().contiguous() for name, value in training.sampler.state_dict().items()},
                  str(folder / SAMPLER))
    _write_json(folder / FACTS, {"kind": "masked_video", "training": dict(facts),
                                 "config": training.config.model_dump(mode="json")})


def model_config(config: AutoencoderConfig) -> dict[str, Any]:
    """``config.json`` of a VideoMAEForPreTraining."""
    from squall.algorithms.masked_video.videomae import videomae_config

    return {"model_type": "videomae", "architectures": ["VideoMAEForPreTraining"], "dtype": "float32",
            **videomae_config(config, "pretraining")}


def processor_config(config: AutoencoderConfig) -> dict[str, Any]:
    """``preprocessor_config.json`` of a VideoMAEImageProcessor: scaled so that it covers the clip's size, cut from the middle,
    normalised as in training."""
    size = {"height": config.image_height, "width": config.image_width}
    return {"image_processor_type": "VideoMAEImageProcessor", "do_resize": True, "do_center_crop": True, "do_rescale": True,
            "do_normalize": True, "size": {"shortest_edge": max(size.values())}, "crop_size": size,
            "image_mean": list(config.mean), "image_std": list(config.std), "rescale_factor": 1 / 255, "resample": 2}


def _sampler_state(training: JointTraining) -> Iterator[tuple[str, torch.Tensor]]:
    from squall.algorithms.masked_video.gradients import state_of

    return iter(()) if training.learner is None else state_of(training.sampler, training.learner.optimiser)


def _under(part: str, tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((f"{part}/{name}", value) for name, value in tensors)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, to_json(value, indent=2) + "\n")
