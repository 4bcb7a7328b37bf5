"""What the gradients of a classifier look like to an attack: their size, and how they vary around an image and along PGD.

AGN, IGV, dIGV and GSUA are names of arXiv 2606.12251; their definitions here are operational ones of Squall's own, next to
what the tracker in that paper's code computes. `measure` keeps numbers of every image, so that averages are over all images,
whatever batches and workers they went through; `summarise` makes the averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import Draws
from squall.platform.attack_card import EntropyRow, IndicatorCurve, Indicators
from squall.platform.config import Config

if TYPE_CHECKING:
    import torch

    from squall.algorithms.gradient_path import LabelledLoss


class IndicatorConfig(Config):
    """How a model's gradients are measured."""

    radii: tuple[float, ...] = Field((0.05, 0.25, 1.0), min_length=1)
    """Radii of the Euclidean balls around an image, with pixels in [0, 1], in which IGV and dIGV look at gradients."""
    samples: int = Field(16, ge=2)
    """Points in each ball."""
    steps: int = Field(20, ge=2)
    """Steps of the PGD whose gradients GSUA compares."""
    points_per_pass: int = Field(128, gt=0)
    """Images that go through the model at once. It bounds memory and changes no result."""


@dataclass(frozen=True)
class GradientMeasurements:
    """Numbers of B images, along K + 1 points of PGD and in balls of R radii. NaN where a zero gradient has no direction."""

    norm: np.ndarray
    """(B,): length of the gradient at the image."""
    zero: np.ndarray
    """bool (B,): the gradient at the image is exactly zero in float32."""
    zero_float64: np.ndarray
    """(B,): 1 or 0, the same in float64; NaN where that was not measured."""
    agreement: np.ndarray
    """(B,): cosine between the two."""
    variance: np.ndarray
    """(B, R): mean over pixels of the gradient's variance in the ball."""
    turning: np.ndarray
    """(B, R): circular variance of the gradient's direction in the ball."""
    path_norm: np.ndarray
    """(B, K + 1)."""
    cosine: np.ndarray
    """(B, K): between the gradients of a point and of the one before."""
    same_sign: np.ndarray
    """(B, K): share of pixels whose gradient has the same sign at both."""
    entropy: np.ndarray
    """(B, 2): bits, of the image and of the path's end."""
    right: np.ndarray
    """bool (B, 2): the model gives them the image's label."""
    direction_sum: np.ndarray
    """(K + 1, d): sum over images of the gradient's direction."""
    direction_count: np.ndarray
    """(K + 1,): images that have one."""


def measure(oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int],
            config: IndicatorConfig, precise: Oracle | None = None, loss: LabelledLoss | None = None) -> GradientMeasurements:
    """Measure the gradients of B images, whether the model has them right or not.

    An image costs ``2 + steps + radii * samples`` backward passes and 2 forward passes more.

    Args:
        images: float32 (B, ...) in [0, 1]. Points of the balls may lie outside: they are not clipped.
        labels: int64 (B,).
        threat: of the PGD.
        seeds: one for each image.
        precise: the same model in float64 (`gradient_path.in_float64`), asked once for each image.
        loss: cross-entropy by default; the tests measure a linear one.

    Raises:
        DataError: the model's output or gradient is not finite.
    """
    import torch

    at_once = config.points_per_pass
    draws = Draws(seeds, images.device)
    parts = []
    for start in range(0, len(images), at_once):
        rows = torch.arange(start, min(start + at_once, len(images)), device=images.device)
        batch = _Batch(oracle, images[rows], labels[rows], rows, draws, loss)
        parts.append(GradientMeasurements(**_at_images(batch, precise), **_in_balls(batch, config),
                                          **_along_path(batch, threat, config.steps)))
    return joined(parts)


def joined(parts: Sequence[GradientMeasurements]) -> GradientMeasurements:
    """Measurements of several sets of images with the same settings, as one."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(GradientMeasurements)}
    return GradientMeasurements(**{name: sum(arrays) if name.startswith("direction_") else np.concatenate(arrays)
                                   for name, arrays in columns.items()})


def summarise(measured: GradientMeasurements, config: IndicatorConfig) -> Indicators:
    """Averages and curves over all images that were measured with `config`."""
    steps = range(measured.path_norm.shape[1])
    mean_directions, spread = _spread(measured)
    curves = (
        _curve("agn", steps, measured.path_norm), _curve("gsua", steps[1:], measured.cosine),
        _curve("sign_consistency", steps[1:], measured.same_sign),
        IndicatorCurve(name="spread", x=tuple(map(float, steps)), y=tuple(map(_figure, spread))),
        _curve("igv", config.radii, measured.variance), _curve("digv", config.radii, measured.turning))
    return Indicators(
        images=len(measured.norm), agn=_mean(measured.norm), igv=_mean(measured.variance), digv=_mean(measured.turning),
        gsua=_mean(measured.cosine), sign_consistency=_mean(measured.same_sign), spread_steps=_apart(mean_directions),
        zero_gradients=_mean(measured.zero) or 0.0, zero_gradients_float64=_mean(measured.zero_float64),
        float32_agreement=_mean(measured.agreement), entropy=_entropy_table(measured), curves=curves)


@dataclass(frozen=True)
class _Batch:
    oracle: Oracle
    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    draws: Draws
    loss: LabelledLoss | None


def _at_images(batch: _Batch, precise: Oracle | None) -> dict[str, np.ndarray]:
    from squall.algorithms.gradient_path import directions, gradient_of, lengths

    gradient = gradient_of(batch.oracle, batch.images, batch.rows, batch.labels, batch.loss)
    norm = lengths(gradient)
    zero_float64 = agreement = norm * math.nan
    if precise is not None:
        exact = gradient_of(precise, batch.images.double(), batch.rows, batch.labels, batch.loss)
        zero_float64 = (lengths(exact) == 0).double()
        agreement = _cosine(directions(gradient), directions(exact))
    return {"norm": norm.cpu().numpy(), "zero": (norm == 0).cpu().numpy(), "zero_float64": zero_float64.cpu().numpy(),
            "agreement": agreement.cpu().numpy()}


def _in_balls(batch: _Batch, config: IndicatorConfig) -> dict[str, np.ndarray]:
    import torch

    at_once = max(1, config.points_per_pass // config.samples)
    parts = [_in_ball(batch, slice(start, start + at_once), config) for start in range(0, len(batch.images), at_once)]
    variance, turning = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return {"variance": variance, "turning": turning}


def _in_ball(batch: _Batch, some: slice, config: IndicatorConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and turning (b, R) of b images, that are few enough for all their points to be held at once."""
    import torch

    from squall.algorithms.gradient_path import directions, gradient_of, unit_ball

    images, count = batch.images[some], config.samples
    noise = unit_ball(batch.draws, batch.rows[some], count, images)
    rows, labels = (values[some].repeat_interleave(count) for values in (batch.rows, batch.labels))
    variance, turning = [], []
    for radius in config.radii:
        points = (images[:, None] + radius * noise).flatten(0, 1)
        pieces = zip(*(values.split(config.points_per_pass) for values in (points, rows, labels)), strict=True)
        gradient = torch.cat([gradient_of(batch.oracle, *piece, batch.loss) for piece in pieces])
        by_image = (len(images), count, -1)
        variance.append(gradient.double().view(by_image).var(1).mean(1))
        turning.append(_circular_variance(directions(gradient).view(by_image)))
    return torch.stack(variance, 1), torch.stack(turning, 1)


def _along_path(batch: _Batch, threat: Threat, steps: int) -> dict[str, np.ndarray]:
    import torch

    from squall.algorithms.gradient_path import directions, entropy_bits, lengths, pgd_path

    norms, cosines, same, sums, counts = [], [], [], [], []
    before: torch.Tensor | None = None
    path = pgd_path(batch.oracle, batch.images, batch.rows, batch.labels, threat, steps, batch.draws, loss=batch.loss)
    for point in path:
        ways = directions(point.gradient)
        norms.append(lengths(point.gradient))
        sums.append(ways.flatten(1).sum(0))
        counts.append((norms[-1] > 0).sum())
        if before is not None:
            cosines.append(_cosine(before, ways))
            agree = (before.sign() == ways.sign()).flatten(1).double().mean(1)
            same.append(agree.where(cosines[-1].isfinite(), math.nan))
        before = ways
    shown = [batch.oracle.logits(images, batch.rows) for images in (batch.images, point.images)]
    columns = {"path_norm": norms, "cosine": cosines, "same_sign": same, "entropy": [entropy_bits(one) for one in shown],
               "right": [one.argmax(1) == batch.labels for one in shown]}
    return {**{name: torch.stack(column, 1).cpu().numpy() for name, column in columns.items()},
            "direction_sum": torch.stack(sums).cpu().numpy(), "direction_count": torch.stack(counts).cpu().numpy()}


def _cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B,) of directions (B, ...); NaN where either is zero."""
    defined = first.flatten(1).any(1) & second.flatten(1).any(1)
    return (first * second).flatten(1).sum(1).clamp(-1, 1).where(defined, math.nan)


def _circular_variance(ways: torch.Tensor) -> torch.Tensor:
    """``1 - |E u|`` (b,) of n directions (b, n, d). |E u|^2 is estimated without the bias of 1/n that ``|mean u|^2`` has."""
    count = ways.any(2).sum(1)
    square = (ways.sum(1).square().sum(1) - count) / (count * (count - 1))
    return (1 - square.clamp(0, 1).sqrt()).where(count > 1, math.nan)


def _spread(measured: GradientMeasurements) -> tuple[np.ndarray, np.ndarray]:
    """Normalised mean directions (K + 1, d) and ``1 - |mean u|`` (K + 1,); NaN where no image has a direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = measured.direction_sum / measured.direction_count[:, None]
        sizes = np.linalg.norm(means, axis=1)
        return means / sizes[:, None], 1 - sizes


def _apart(mean_directions: np.ndarray) -> float | None:
    """1 - the mean cosine over pairs of K + 1 directions."""
    count = len(mean_directions)
    return _figure(1 - (np.square(mean_directions.sum(0)).sum() - count) / (count * (count - 1)))


def _entropy_table(measured: GradientMeasurements) -> tuple[EntropyRow, ...]:
    rows = []
    for column, images in enumerate(("clean", "attacked")):
        right = measured.right[:, column]
        for group, chosen in (("all", np.ones_like(right)), ("correct", right), ("wrong", ~right)):
            bits = _mean(measured.entropy[chosen, column])
            rows.append(EntropyRow(images=images, group=group, bits=bits, count=int(chosen.sum())))
    return tuple(rows)


def _curve(name: str, x: Sequence[float], values: np.ndarray) -> IndicatorCurve:
    return IndicatorCurve(name=name, x=tuple(map(float, x)), y=tuple(_mean(column) for column in values.T))


def _mean(values: np.ndarray) -> float | None:
    defined = values[np.isfinite(values)]
    return _figure(defined.mean()) if defined.size else None


def _figure(number: float) -> float | None:
    """To six digits, below which the order of a sum shows."""
    return float(f"{number:.6g}") + 0.0 if math.isfinite(number) else None
