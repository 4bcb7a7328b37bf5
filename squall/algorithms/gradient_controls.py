"""Penalties on gradients by the input: the controls that any claim about smoother gradients has to be held against.

Spectral normalisation, the third control, is part of the network (`network.spectral_norm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from squall.platform.config import Config

if TYPE_CHECKING:
    import torch


class GradientControls(Config):
    """Penalties that are added to the loss."""

    input_gradient: float = Field(0.0, ge=0)
    """Weight of the squared length of the cross-entropy's gradient by the image (Drucker and LeCun 1992; Ross and Doshi-Velez
    2018)."""
    jacobian: float = Field(0.0, ge=0)
    """Weight of half the squared Frobenius norm of the logits' Jacobian by the image (Hoffman et al. 2019, eq. 5)."""
    projections: int = Field(1, ge=1)
    """Random directions that estimate that norm."""

    @property
    def active(self) -> bool:
        """Whether anything is penalised."""
        return self.input_gradient > 0 or self.jacobian > 0

    @property
    def passes(self) -> int:
        """Passes of each image that the penalties add: two for every gradient that is differentiated again (as measured)."""
        return 2 * (int(self.input_gradient > 0) + self.projections * int(self.jacobian > 0))


def penalty(config: GradientControls, images: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, directions: torch.Tensor
            ) -> torch.Tensor:
    """What is added to each image's loss, (B,), with a gradient.

    Args:
        images: (B, ...), which `logits` (B, K) were computed from and which require a gradient.
        directions: standard normal numbers (B, projections, K).
    """
    from torch.nn.functional import cross_entropy

    total = logits.new_zeros(len(logits))
    if config.input_gradient:
        losses = cross_entropy(logits, labels, reduction="none")
        total = total + config.input_gradient * _squared_length(losses, images)
    if config.jacobian:
        total = total + 0.5 * config.jacobian * jacobian_norm(images, logits, directions)
    return total


def jacobian_norm(images: torch.Tensor, logits: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Estimate of the squared Frobenius norm (B,) of d logits / d image: K times the mean squared length of its products with
    random unit vectors (Hoffman, Roberts and Yaida 2019, algorithm 1). `directions` as in `penalty`."""
    units = directions.to(logits) / directions.norm(dim=-1, keepdim=True).to(logits)
    squares = [_squared_length((logits * unit).sum(-1), images) for unit in units.unbind(1)]
    return logits.shape[-1] * sum(squares) / len(squares)


def _squared_length(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Squared length (B,) of each value's gradient by its own image, to be differentiated again."""
    import torch

    (gradient,) = torch.autograd.grad(values.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)
