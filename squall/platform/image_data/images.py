"""A data set in memory, and how it is divided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch

SMALLEST_STD = 1 / 255


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, or clips, of one shape."""

    images: np.ndarray
    """uint8 (N, H, W, C); of clips (N, T, H, W, C)."""
    labels: np.ndarray
    """int64 (N,), positions in `classes`."""
    classes: tuple[str, ...]
    source: str
    """Where they come from, and which part of it."""
    dropped: tuple[str, ...] = ()
    """What could not be read, a line each with the file and the reason."""

    @cached_property
    def hash(self) -> str:
        """32 hex digits over pixels, labels and classes."""
        digest = hashlib.blake2b(f"{self.images.shape} {self.classes}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8"))
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image as networks take it: (C, H, W), of a clip (C, T, H, W)."""
        return (self.images.shape[-1], *self.images.shape[1:-1])

    def __len__(self) -> int:
        return len(self.labels)

    def tensor(self, rows: Sequence[int] | np.ndarray | slice = slice(None)) -> torch.Tensor:
        """float32 (n, \\*shape) in [0, 1], contiguous, on the CPU."""
        import torch

        chosen = np.moveaxis(self.images[rows], -1, 1)
        return torch.from_numpy(np.ascontiguousarray(chosen)).float().div_(255)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, with pixels in [0, 1]; a deviation is one grey level at least."""
        counts = np.stack([np.bincount(self.images[..., channel].ravel(), minlength=256)
                           for channel in range(self.images.shape[-1])])
        levels = np.arange(256) / 255
        shares = counts / counts.sum(axis=1, keepdims=True)
        means = shares @ levels
        variances = (shares * (levels - means[:, None]) ** 2).sum(axis=1)
        return tuple(map(float, means)), tuple(map(float, np.maximum(np.sqrt(variances), SMALLEST_STD)))

    def subset(self, rows: Sequence[int] | np.ndarray, note: str) -> ImageSet:
        """Those rows; `note` says in `source` which they are."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], source=f"{self.source}, {note}")


def split_validation(data: ImageSet, fraction: float = 0.1, seed: int = 42) -> tuple[ImageSet, ImageSet]:
    """(training, validation): a share of every class is set aside, the same for the same images and seed.

    Raises:
        ConfigError: one of the two would be empty.
    """
    count = round(fraction * len(data))
    if not 0 < count < len(data):
        raise ConfigError(f"{data.source}: a validation share of {fraction} takes {count} of {len(data)} images; both parts "
                          "need at least one")
    validation, training = divide(data.labels, count, seed)
    return data.subset(training, f"without {count} for validation"), data.subset(validation, f"{count} for validation")


def divide(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, ascending, of `count` images with every class by its share, and of the others."""
    order = stratified_order(labels, seed)
    return np.sort(order[:count]), np.sort(order[count:])


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """All rows in an order of which every beginning holds each class by its share, to within one image."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shuffled = np.random.default_rng(derive_seed(seed, "class", int(label))).permutation(rows)
        place[shuffled] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((labels, place))
