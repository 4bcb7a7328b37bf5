"""What the gradients of a classifier look like to an attack: their size, and how they vary around an image and along PGD.

AGN, IGV, dIGV and GSUA are names of arXiv 2606.12251; their definitions here are operational ones of Squall's own, next to
what the tracker in that paper's code computes. `measure` keeps numbers of every image, so that averages are over all images,
whatever batches and workers they went through; `summarise` makes the averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from pydantic import Field

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.losses import LOSSES, LossName
from squall.algorithms.attacks.pgd import PGD, pgd_path
from squall.platform.attack_card import EntropyRow, IndicatorCurve, Indicators
from squall.platform.config import Config
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch


class IndicatorConfig(Config):
    """How a model's gradients are measured."""

    radii: tuple[float, ...] = Field((0.05, 0.25, 1.0), min_length=1)
    """Radii of the Euclidean balls around an image, with pixels in [0, 1], in which IGV and dIGV look at gradients."""
    samples: int = Field(16, ge=2)
    """Points in each ball."""
    steps: int = Field(20, ge=2)
    """Gradients along PGD that GSUA compares, each with the one before."""
    loss: LossName = "ce"
    """Whose gradients they are. `cw`, the difference of logits, does not saturate: where it has gradients and `ce` has none,
    they are masked."""
    points_per_pass: int = Field(128, gt=0)
    """Images that go through the model at once. It bounds memory and changes no result."""


@dataclass(frozen=True)
class GradientMeasurements:
    """Numbers of B images, at K points of PGD and in balls of R radii. NaN where a zero gradient has no direction."""

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
    """(B, K)."""
    cosine: np.ndarray
    """(B, K - 1): between the gradients of a point and of the one before."""
    same_sign: np.ndarray
    """(B, K - 1): share of pixels whose gradient has the same sign at both."""
    entropy: np.ndarray
    """(B, 2): bits, of the image and of PGD's last point."""
    right: np.ndarray
    """bool (B, 2): the model gives them the image's label."""
    direction_sum: np.ndarray
    """(K, d): sum over images of the gradient's direction."""
    direction_count: np.ndarray
    """(K,): images that have one."""


def measure(oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int],
            config: IndicatorConfig, precise: Oracle | None = None) -> GradientMeasurements:
    """Measure the gradients of B images, whether the model has them right or not.

    An image costs ``1 + steps + radii * samples`` backward passes, with a forward pass each.

    Args:
        images: float32 (B, ...) in [0, 1]. Points of the balls may lie outside: they are not clipped.
        labels: int64 (B,).
        threat: of the PGD.
        seeds: one for each image.
        precise: the same model in float64 (`gradient_geometry.in_float64`), asked once for each image.

    Raises:
        DataError: images, labels or seeds that are unsound, a model's output or gradient that is not finite.
        ConfigError: an epsilon above the box.
    """
    import torch

    at_once = config.points_per_pass
    parts = []
    for start in range(0, len(images), at_once):
        rows = torch.arange(start, min(start + at_once, len(images)), device=images.device)
        batch = _Batch(oracle.part(rows), images[rows], labels[rows], list(seeds[start:start + at_once]), config)
        exact = precise and precise.part(rows)
        at_images, clean = _at_images(batch, exact)
        along_path, attacked = _along_path(batch, threat)
        columns = {**at_images, **along_path, **_in_balls(batch), **_predictions(batch, (clean, attacked))}
        parts.append(GradientMeasurements(**{name: column.cpu().numpy() for name, column in columns.items()}))
        oracle.add(batch.oracle, rows)
        if precise and exact:
            precise.add(exact, rows)
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
    seeds: Sequence[int]
    config: IndicatorConfig

    def gradient(self, oracle: Oracle, images: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and gradients of images (n, ...) that are about those of `rows`, so many at a time as a pass takes."""
        import torch

        loss, size = LOSSES[self.config.loss], self.config.points_per_pass
        found = [oracle.gradient(some, own, partial(loss, labels=self.labels[own]))
                 for some, own in zip(images.split(size), rows.split(size), strict=True)]
        logits, _, gradients = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(gradients)


Columns: TypeAlias = "dict[str, torch.Tensor]"


def _at_images(batch: _Batch, precise: Oracle | None) -> tuple[Columns, torch.Tensor]:
    """Also the logits of the images."""
    import torch

    from squall.algorithms.gradient_geometry import directions, lengths

    rows = torch.arange(len(batch.images), device=batch.images.device)
    logits, gradient = batch.gradient(batch.oracle, batch.images, rows)
    norm = lengths(gradient)
    zero_float64 = agreement = norm * math.nan
    if precise is not None:
        _, exact = batch.gradient(precise, batch.images.double(), rows)
        zero_float64 = (lengths(exact) == 0).double()
        agreement = _cosine(directions(gradient), directions(exact))
    return {"norm": norm, "zero": norm == 0, "zero_float64": zero_float64, "agreement": agreement}, logits


def _along_path(batch: _Batch, threat: Threat) -> tuple[Columns, torch.Tensor]:
    """Also the logits of the last point."""
    import torch

    from squall.algorithms.gradient_geometry import directions, lengths

    norms, cosines, same, sums = [], [], [], []
    before: torch.Tensor | None = None
    attack = PGD(steps=batch.config.steps, loss=batch.config.loss)
    for step in pgd_path(attack, batch.oracle, batch.images, batch.labels, threat, batch.seeds):
        ways = directions(step.gradient)
        norms.append(lengths(step.gradient))
        sums.append(ways.flatten(1).sum(0))
        if before is not None:
            cosines.append(_cosine(before, ways))
            agree = (before.sign() == ways.sign()).flatten(1).double().mean(1)
            same.append(agree.where(cosines[-1].isfinite(), math.nan))
        before = ways
    path_norm, cosine, same_sign = (torch.stack(column, 1) for column in (norms, cosines, same))
    return {"path_norm": path_norm, "cosine": cosine, "same_sign": same_sign, "direction_sum": torch.stack(sums),
            "direction_count": (path_norm > 0).sum(0)}, step.logits


def _in_balls(batch: _Batch) -> Columns:
    import torch

    draws = Draws([derive_seed(seed, "ball") for seed in batch.seeds], batch.images.device)
    rows = torch.arange(len(batch.images), device=batch.images.device)
    parts = [_in_ball(batch, some, draws) for some in rows.split(max(1, batch.config.points_per_pass // batch.config.samples))]
    variance, turning = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"variance": variance, "turning": turning}


def _in_ball(batch: _Batch, rows: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and turning (b, R) of b images, that are few enough for all their points to be held at once."""
    import torch

    from squall.algorithms.gradient_geometry import directions, unit_ball

    images, count = batch.images[rows], batch.config.samples
    noise = unit_ball(draws, rows, count, images)
    variance, turning = [], []
    for radius in batch.config.radii:
        points = (images[:, None] + radius * noise).flatten(0, 1)
        _, gradient = batch.gradient(batch.oracle, points, rows.repeat_interleave(count))
        by_image = (len(images), count, -1)
        variance.append(gradient.double().view(by_image).var(1).mean(1))
        turning.append(_circular_variance(directions(gradient).view(by_image)))
    return torch.stack(variance, 1), torch.stack(turning, 1)


def _predictions(batch: _Batch, logits: Sequence[torch.Tensor]) -> Columns:
    import torch

    from squall.algorithms.gradient_geometry import entropy_bits

    return {"entropy": torch.stack([entropy_bits(one) for one in logits], 1),
            "right": torch.stack([one.argmax(1) == batch.labels for one in logits], 1)}


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
    """Normalised mean directions (K, d) and ``1 - |mean u|`` (K,); NaN where no image has a direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = measured.direction_sum / measured.direction_count[:, None]
        sizes = np.linalg.norm(means, axis=1)
        return means / sizes[:, None], 1 - sizes


def _apart(mean_directions: np.ndarray) -> float | None:
    """1 - the mean cosine over pairs of K directions."""
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
