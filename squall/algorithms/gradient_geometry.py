"""What measurements of a model's gradients share: lengths and directions at any scale, balls to look around in, float64."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

from squall.algorithms.attacks.base import Model
from squall.algorithms.attacks.draws import Draws

if TYPE_CHECKING:
    import torch


def entropy_bits(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each prediction, (B,) float64, in bits: 0 where the model is sure, log2 K where it is uniform over K."""
    import torch

    return torch.special.entr(logits.double().softmax(1)).sum(1) / math.log(2)


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each of B vectors (B, ...), (B,) float64, where the squares are too small for any float too."""
    flat = vectors.flatten(1).double()
    peaks = flat.abs().amax(1)
    return peaks * (flat / peaks.where(peaks > 0, 1.0)[:, None]).norm(dim=1)


def directions(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, shaped like `vectors` (B, ...), in float64; zero where a vector is zero."""
    flat = vectors.flatten(1).double()
    peaks = flat.abs().amax(1, keepdim=True)
    scaled = flat / peaks.where(peaks > 0, 1.0)
    norms = scaled.norm(dim=1, keepdim=True)
    return (scaled / norms.where(norms > 0, 1.0)).view(vectors.shape)


def unit_ball(draws: Draws, rows: torch.Tensor, count: int, images: torch.Tensor) -> torch.Tensor:
    """`count` points for each of B images, uniform in the Euclidean ball of radius 1: (B, count, ...) for images (B, ...)."""
    shape = tuple(images.shape[1:])
    ways = directions(draws.normal(rows, count, *shape).flatten(0, 1)).view(len(rows), count, *shape)
    radii = draws.uniform(rows, count).double() ** (1 / math.prod(shape))
    return (ways * radii.view(len(rows), count, *[1] * len(shape))).to(images.dtype)


def in_float64(model: Model, image: torch.Tensor) -> Model | None:
    """The same model in float64; None for one that is no module or does not run in it. `image` (...) is tried."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return None
    try:
        twin = copy.deepcopy(model).double()
        with torch.inference_mode():
            logits = twin(image[None].double())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # how torch says that a type is written into the model
        return None
    return twin if logits.dtype == torch.float64 else None
