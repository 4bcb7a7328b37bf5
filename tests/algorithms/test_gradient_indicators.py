"""Indicators against closed forms: what they are for models that are linear, curved in a known way, dead or saturated."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.gradient_geometry import directions, entropy_bits, in_float64, lengths, unit_ball
from squall.algorithms.gradient_indicators import GradientMeasurements, IndicatorConfig, joined, measure, summarise
from squall.platform.attack_card import Indicators

SHAPE, CLASSES = (1, 4, 4), 5
CONFIG = IndicatorConfig(steps=6, samples=8)


def linear(scale: float = 1.0, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].weight.mul_(scale)
    return model


def pictures(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((count, *SHAPE), generator=generator), torch.arange(count) % CLASSES


def measured(model, config: IndicatorConfig = CONFIG, threat: Threat | None = None, seeds=range(7), precise: bool = False
             ) -> GradientMeasurements:
    images, labels = pictures(len(seeds))
    twin = in_float64(model, images[0]) if precise else None
    return measure(Oracle(model, len(images)), images, labels, threat or Threat(epsilon=0.1), list(seeds), config,
                   Oracle(twin, len(images)) if twin is not None else None)


def curve(figures: Indicators, name: str) -> tuple[float | None, ...]:
    return next(one.y for one in figures.curves if one.name == name)


def test_gradient_norm_of_a_softmax_model_is_that_of_its_formula():
    model, (images, labels) = linear(), pictures()
    with torch.no_grad():
        gap = model(images).softmax(1) - nn.functional.one_hot(labels, CLASSES)
        expected = (gap @ model[1].weight).norm(dim=1).numpy()
    found = measured(model)
    np.testing.assert_allclose(found.norm, expected, rtol=1e-5)
    assert summarise(found, CONFIG).agn == pytest.approx(expected.mean(), rel=1e-5)


def test_a_linear_loss_has_one_gradient_everywhere():
    """The logit difference of two classes."""
    config = CONFIG.model_copy(update={"loss": "cw"})
    images, labels = pictures()
    found = measure(Oracle(linear(classes=2), 7), images, labels % 2, Threat(epsilon=0.1), list(range(7)), config)
    figures = summarise(found, config)
    assert figures.igv == pytest.approx(0, abs=1e-12) and figures.digv == pytest.approx(0, abs=1e-7)
    assert figures.gsua == pytest.approx(1, abs=1e-7) and figures.sign_consistency == 1
    assert curve(figures, "gsua") == pytest.approx([1] * 5) and curve(figures, "igv") == pytest.approx([0] * 3, abs=1e-12)


def test_variance_around_an_image_is_that_of_a_quadratic_loss():
    """With logits (0, |x|^2 / 2) the loss ``z_1 - z_0`` has gradient x: its variance in a ball of radius r is r^2 / (d + 2)."""
    def model(images: torch.Tensor) -> torch.Tensor:
        half = images.flatten(1).square().sum(1) / 2
        return torch.stack([torch.zeros_like(half), half], 1)

    config = IndicatorConfig(radii=(0.1, 0.5), samples=2000, steps=2, points_per_pass=4000, loss="cw")
    images = torch.full((3, *SHAPE), 0.5)
    found = measure(Oracle(model, 3), images, torch.zeros(3, dtype=torch.int64), Threat(), [1, 2, 3], config)
    np.testing.assert_allclose(found.variance, [[0.01 / 18, 0.25 / 18]] * 3, rtol=0.05)


@pytest.mark.parametrize("count, tolerance", [(2, 0.25), (64, 0.1)])
def test_directions_without_any_order_have_a_circular_variance_of_one_whatever_their_number(count, tolerance):
    def model(images: torch.Tensor) -> torch.Tensor:  # its gradient is a hash of the image
        noise = torch.sin(images.detach().flatten(1) * 1e5)
        return torch.stack([(noise * images.flatten(1)).sum(1), images.new_zeros(len(images))], 1)

    config = IndicatorConfig(samples=count, steps=2)
    images = torch.rand((20, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    found = measure(Oracle(model, 20), images, torch.ones(20, dtype=torch.int64), Threat(), list(range(20)), config)
    assert found.turning.mean() == pytest.approx(1, abs=tolerance)


def test_uniform_logits_have_the_entropy_of_all_classes_and_certain_ones_none():
    assert entropy_bits(torch.zeros(2, 10)).tolist() == pytest.approx([math.log2(10)] * 2)
    assert entropy_bits(torch.tensor([[0.0, 1000.0], [0.0, 0.0]])).tolist() == pytest.approx([0, 1])


def test_entropy_is_told_for_right_and_wrong_images_before_and_after():
    model, (images, labels) = linear(scale=6), pictures(20)
    found = measured(model, threat=Threat(epsilon=0.3), seeds=range(20))
    rows = {(row.images, row.group): row for row in summarise(found, CONFIG).entropy}
    right = model(images).argmax(1) == labels
    bits = entropy_bits(model(images).detach())
    assert 0 < rows["clean", "correct"].count == int(right.sum()) < 20
    assert rows["clean", "correct"].bits == pytest.approx(float(bits[right].mean()), rel=1e-5)
    assert rows["clean", "wrong"].bits == pytest.approx(float(bits[~right].mean()), rel=1e-5)
    assert rows["attacked", "all"].count == 20
    assert rows["attacked", "correct"].count < rows["clean", "correct"].count


def test_a_dead_gradient_is_counted_and_has_no_direction():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.ReLU())
    with torch.no_grad():
        model[1].bias.fill_(-100)
    figures = summarise(measured(model, precise=True), CONFIG)
    assert figures.zero_gradients == figures.zero_gradients_float64 == 1 and figures.agn == 0
    assert figures.gsua is figures.digv is figures.sign_consistency is figures.spread_steps is None
    assert curve(figures, "spread") == (None,) * 6


def test_saturation_is_seen_in_float32_and_not_in_float64():
    """A margin of 200: exp(-200) is below float32 and above float64."""
    images = torch.full((1, *SHAPE), 0.5)
    model = linear()
    with torch.no_grad():
        model[1].bias[0] = 200
    oracles = Oracle(model, 1), Oracle(in_float64(model, images[0]), 1)
    found = measure(oracles[0], images, torch.zeros(1, dtype=torch.int64), Threat(), [0], CONFIG, oracles[1])
    assert found.zero[0] and found.zero_float64[0] == 0 and np.isnan(found.agreement[0])
    with torch.no_grad():
        model[1].bias[0] = 30  # the label's own share of the gradient, 1 - p, is rounded away
    twin = in_float64(model, images[0])
    found = measure(Oracle(model, 1), images, torch.zeros(1, dtype=torch.int64), Threat(), [0], CONFIG, Oracle(twin, 1))
    assert not found.zero[0] and found.agreement[0] < 0.95


def test_tiny_gradients_have_lengths_and_directions():
    vectors = torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])
    assert lengths(vectors).tolist() == pytest.approx([5e-30, 0])
    assert lengths(vectors.double() * 1e-290)[0].item() > 0  # squares that float64 does not hold either
    np.testing.assert_allclose(directions(vectors), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_an_image_has_the_same_numbers_whatever_stands_beside_it():
    model, (images, labels) = linear(scale=3), pictures(7)
    whole = measured(model, CONFIG.model_copy(update={"points_per_pass": 3}))
    parts = [measure(Oracle(model, len(rows)), images[rows], labels[rows], Threat(epsilon=0.1), list(rows), CONFIG)
             for rows in ([0, 1, 2, 3, 4], [5, 6])]
    apart = joined(parts)
    for field in fields(GradientMeasurements):
        np.testing.assert_allclose(getattr(apart, field.name), getattr(whole, field.name), rtol=1e-4, atol=1e-6)


def test_passes_are_counted():
    images, labels = pictures(3)
    oracle, precise = Oracle(linear(), 3), Oracle(linear().double(), 3)
    measure(oracle, images, labels, Threat(), [0, 1, 2], CONFIG.model_copy(update={"points_per_pass": 2}), precise)
    backward = 1 + 3 * 8 + 6
    assert oracle.gradients.tolist() == [backward] * 3 and oracle.queries.tolist() == [backward] * 3
    assert precise.gradients.tolist() == precise.queries.tolist() == [1] * 3


def test_points_fill_the_ball():
    points = unit_ball(Draws([5]), torch.zeros(1, dtype=torch.int64), 4000, torch.zeros(1, 1, 1, 2)).flatten(1).view(-1, 2)
    radii = points.norm(dim=1)
    assert radii.max() <= 1 and (radii < 0.5).double().mean() == pytest.approx(0.25, abs=0.03)


def test_a_model_with_a_type_written_into_it_is_not_measured_in_float64():
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.ones(16, CLASSES)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) @ self.weight

    assert in_float64(Stubborn(), torch.zeros(SHAPE)) is None and in_float64(lambda images: images, torch.zeros(SHAPE)) is None
    assert summarise(measured(linear()), CONFIG).zero_gradients_float64 is None
