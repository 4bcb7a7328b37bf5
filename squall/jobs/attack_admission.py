"""Whether a model may be attacked with some images: it opens, takes them, knows their classes, and answers with numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from squall.algorithms.attacks.base import Oracle
from squall.jobs.attack_models import AttackedModel
from squall.platform.errors import ConfigError, DataError
from squall.platform.image_classifiers import ImageClassifier, ImageModelConfig, open_image_classifier
from squall.platform.image_data import ImageSet

PROBED = 16
"""Images that a model is shown before anything starts."""


def admit(name: str, config: ImageModelConfig, images: ImageSet) -> AttackedModel:
    """Open a model, and see that it takes these images and answers about the first of them.

    Raises:
        ConfigError: it cannot be opened, or does not fit the images.
        DataError: its output is not finite or of another shape (reason ``bad_output``).
    """
    anywhere = _anywhere(config)
    model = open_image_classifier(anywhere)
    _check_fit(name, model, images)
    import torch

    rows = np.arange(min(PROBED, len(images)))
    try:
        Oracle(model.module, len(rows)).logits(images.tensor(rows), torch.from_numpy(rows))
    except DataError as error:
        raise DataError(f"model {name} ({config.path}): {error}; it cannot be attacked", reason=error.reason) from None
    return AttackedModel(name, config.path, anywhere, model.hash, model.description, training=model.training)


def _anywhere(config: ImageModelConfig) -> ImageModelConfig:
    """The same model for a process that was started in another folder."""
    kind = config.resolved_kind
    values = {key: getattr(config, key) for key in config.model_fields_set & ImageModelConfig.model_fields.keys()}
    files = {key: value.absolute() for key, value in values.items() if isinstance(value, Path)}
    path = str(Path(config.path).absolute()) if kind == "checkpoint" else config.path
    return ImageModelConfig(**values | files | {"kind": kind, "path": path})


def _check_fit(name: str, model: ImageClassifier, images: ImageSet) -> None:
    if tuple(model.shape) != tuple(images.shape):
        raise ConfigError(f"model {name} takes images of shape {list(model.shape)}, and these are {list(images.shape)} "
                          f"({images.source}); set data.size, or give the data that it was trained for")
    if len(model.classes) != len(images.classes):
        raise ConfigError(f"model {name} has {len(model.classes)} classes and the data {len(images.classes)} "
                          f"({images.source}); labels mean something else to it")
    if model.classes != images.classes:
        first, own, theirs = next((place, *pair) for place, pair in enumerate(zip(model.classes, images.classes, strict=True))
                                  if len(set(pair)) > 1)
        raise ConfigError(f"model {name}: class {first} is '{own}', and in the data '{theirs}'; give the classes of both in "
                          "the same order")
    wrong = (images.labels < 0) | (images.labels >= len(images.classes))
    if wrong.any():
        raise DataError(f"image {int(np.flatnonzero(wrong)[0])} of {images.source} has label {int(images.labels[wrong][0])}; "
                        f"allowed are 0 to {len(images.classes) - 1}", reason="label")
