"""The smallest change onto a hyperplane within the box, against another implementation and by what makes it smallest."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.fab_projections import projection_l2, projection_linf

from squall.algorithms.attacks.hyperplanes import change_to


def planes(count: int = 40, size: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points of which a third of the values touch the box, slopes of which some are 0, and values at the points."""
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(count, 1, size, generator=generator) * 1.5 - 0.25).clamp(0, 1)
    slope = torch.randn(count, size, generator=generator) * (torch.rand(count, size, generator=generator) > 0.1)
    return points, slope, torch.randn(count, 1, generator=generator) * 3


@pytest.mark.parametrize(("norm", "peer"), [("linf", projection_linf), ("l2", projection_l2)])
def test_it_is_the_peers_change(norm: str, peer) -> None:
    points, slope, value = planes()
    offset = (slope * points[:, 0]).sum(1) - value[:, 0]
    theirs = peer(points[:, 0].double(), slope.double(), offset.double())
    ours = change_to(points, slope, value, norm)
    left = value[:, 0] + (ours[:, 0] * slope).sum(1)
    assert torch.allclose(ours[:, 0].double(), theirs, atol=1e-5)
    assert (left.abs() < 1e-5).float().mean() > 0.7, "most hyperplanes are within reach"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_stays_in_the_box_and_out_of_reach_it_goes_to_the_nearest_corner(norm: str) -> None:
    points, slope, _ = planes()
    change = change_to(points, slope, torch.full((40, 1), 1e4), norm)
    corner = torch.where(slope > 0, 0.0, torch.where(slope < 0, 1.0, points[:, 0]))
    assert torch.allclose(points[:, 0] + change[:, 0], corner, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_flat_function_and_a_point_on_the_plane_move_nowhere(norm: str) -> None:
    points, slope, value = planes()
    assert not change_to(points, torch.zeros_like(slope), value, norm).any()
    assert not change_to(points, slope, torch.zeros_like(value), norm).any()


def test_points_of_one_slope_do_not_mix() -> None:
    points, slope, value = planes()
    two = torch.cat((points, points.flip(0)), dim=1)
    values = torch.cat((value, -value), dim=1)
    both = change_to(two, slope, values, "l2")
    for i in range(2):
        assert torch.equal(both[:, i:i + 1], change_to(two[:, i:i + 1], slope, values[:, i:i + 1], "l2"))
