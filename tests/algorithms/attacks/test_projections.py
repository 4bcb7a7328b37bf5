"""Ball and box, random starts and noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from squall.algorithms.attacks.base import Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.projections import (
    lengths,
    noise_of_size,
    project,
    start_in_ball,
    start_on_sphere,
    steepest,
)

THREATS = [Threat(norm=norm, epsilon=epsilon) for norm, epsilon in [("linf", 0.1), ("linf", 1.0), ("l2", 0.3), ("l2", 9.0)]]
ROWS = torch.arange(40)


def pictures(seed: int = 0) -> torch.Tensor:
    """Random images with many pixels at the edges of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(40, 2, 5, 4, generator=generator) * 2 - 0.5).clamp(0, 1)


def assert_within(points: torch.Tensor, images: torch.Tensor, threat: Threat) -> None:
    assert points.min() >= 0 and points.max() <= 1
    assert (lengths(points - images, threat.norm) <= threat.epsilon * (1 + 1e-5)).all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_projection_lies_within_and_leaves_what_lies_within(threat: Threat) -> None:
    images = pictures()
    for scale in (0.01, 1.0, 100.0):
        wild = images + scale * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        projected = project(wild, images, threat)
        assert_within(projected, images, threat)
        assert torch.allclose(project(projected, images, threat), projected, atol=1e-6)
    assert torch.equal(project(images, images, threat), images)


@pytest.mark.parametrize("start", [start_in_ball, start_on_sphere, noise_of_size])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_random_points_lie_within_and_follow_from_an_image_s_own_seed(start: Callable, threat: Threat) -> None:
    images = pictures()
    points = start(images, threat, Draws(range(40)), ROWS)
    assert_within(points, images, threat)
    assert not torch.equal(points, images)
    some = torch.tensor([31, 4])
    assert torch.equal(start(images[some], threat, Draws(range(40)), some), points[some])
    assert torch.equal(start(images[some], threat, Draws([31, 4]), torch.arange(2)), points[some])


def test_starts_fill_the_euclidean_ball() -> None:
    """A share r^d of a ball of d dimensions is nearer than r; the raw draw of each pixel in [-epsilon, epsilon] is not."""
    images = torch.full((2000, 2), 0.5)
    points = start_in_ball(images, Threat(norm="l2", epsilon=0.4), Draws(range(2000)), torch.arange(2000))
    radii = (points - images).norm(dim=1) / 0.4
    assert (radii < 0.5).float().mean() == pytest.approx(0.25, abs=0.03)
    assert radii.max() <= 1


def test_starts_fill_the_cube_evenly() -> None:
    points = start_in_ball(torch.full((2000, 2), 0.5), Threat(epsilon=0.4), Draws(range(2000)), torch.arange(2000))
    assert (points.sub(0.5).abs() < 0.2).float().mean() == pytest.approx(0.5, abs=0.03)


def test_noise_is_as_large_as_the_threat_although_the_box_cuts_it() -> None:
    for threat in (Threat(norm="l2", epsilon=0.8), Threat(epsilon=0.1)):
        sizes = lengths(noise_of_size(pictures(), threat, Draws(range(40)), ROWS) - pictures(), threat.norm)
        assert torch.allclose(sizes, torch.tensor(threat.epsilon), rtol=1e-4)


def test_steepest_change_has_size_one_and_none_without_a_gradient() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert steepest(gradient, "linf").tolist() == [[1, -1], [0, 0]]
    assert torch.allclose(steepest(gradient, "l2"), torch.tensor([[0.6, -0.8], [0, 0]]))


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-38])
def test_a_step_has_its_size_however_small_the_gradient_is(scale: float) -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]]) * scale
    assert steepest(gradient, "l2")[0].tolist() == pytest.approx([0.6, -0.8], rel=1e-5)
    assert steepest(gradient, "linf")[0].tolist() == [1, -1]
    assert not steepest(gradient, "l2")[1].any() and not steepest(gradient, "linf")[1].any()
