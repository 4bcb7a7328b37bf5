"""The smallest change that takes a point of the box [0, 1] onto a hyperplane and keeps it in the box.

Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", section 2.2 and appendix A.
The nearest point moves every coordinate against the slope, as fast as the norm's dual says, until the coordinate meets the box.
How much of the way is covered is then a concave, piecewise linear function of the length gone, and Newton's method finds where
it is enough in a handful of steps, without sorting the coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from squall.algorithms.attacks.base import Norm

LONGEST = 1e12


def change_to(points: torch.Tensor, slope: torch.Tensor, value: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Smallest changes (n, m, D) after which ``value + <slope, change>`` is 0, within the box.

    Where the box does not reach the hyperplane, the change goes as far towards it as the box allows.

    Args:
        points: (n, m, D) in [0, 1]; m points share each of the n slopes.
        slope: (n, D).
        value: (n, m), of the linear function at each point.
    """
    import torch

    uphill = slope.sign()[:, None] * torch.where(value < 0, -1.0, 1.0)[..., None]
    room = torch.le(uphill, 0, out=torch.empty_like(points)).sub_(points).abs_()
    way = _covered(room, slope.abs()[:, None], value.abs()[..., None], norm)
    return way.mul_(uphill).neg_()


def _covered(room: torch.Tensor, weight: torch.Tensor, needed: torch.Tensor, norm: Norm) -> torch.Tensor:
    """How far each coordinate goes (n, m, D) and not beyond its room, so that the sum over ``weight * way`` is `needed`."""
    import torch

    pull, rate = (weight, 1.0) if norm == "linf" else (weight**2, weight)
    # comparisons write floats, and sums are of products: several times as fast as masks and matrix products here
    way, goes_on, buffer = torch.zeros_like(room), room.sign(), torch.empty_like(room)

    def total(factor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.mul(values, factor, out=buffer).sum(-1, keepdim=True)

    length = torch.zeros_like(needed)
    for _ in range(room.shape[-1]):
        left, gain = needed - total(weight, way), total(pull, goes_on)
        longer = torch.where(gain > 0, length + left / gain, length).clamp_(max=LONGEST)
        if not (longer > length).any():
            break
        length = torch.maximum(length, longer)
        reach = torch.mul(length, rate, out=buffer) if norm == "l2" else length
        torch.minimum(room, reach, out=way)
        torch.gt(room, reach, out=goes_on)
    return way
