"""Training on attacked images: FGSM as published for SL-adv and RL-adv, TRADES, and multi-step PGD."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from squall.algorithms.attacks.base import Loss, Model, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.projections import project, start_in_ball, steepest
from squall.platform.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

TRADES_START = 1e-3
"""Standard deviation of the noise that TRADES' inner attack starts from: at the image itself the divergence has no gradient."""


class AdversarialConfig(Config):
    """How training images are attacked."""

    kind: Literal["none", "fgsm", "trades", "pgd"] = "none"
    """`fgsm`: objective on the image + weight x objective on the image after one step; `trades`: objective + weight x
    divergence of the predictions for image and attacked image; `pgd`: objective on the attacked image alone."""
    threat: Threat = Threat()
    """Norm and radius (the published RL-adv trains at epsilon 0.01)."""
    weight: float | None = Field(None, gt=0)
    """Weight of the second term; by default 1 for fgsm (lambda) and 6 for trades (beta). pgd has none."""
    start: float = Field(0.0, ge=0, lt=1)
    """Fraction of training that passes before the first image is attacked (the published runs: 0.5 to 0.8)."""
    steps: int = Field(10, ge=1)
    """Steps of the inner attack of trades and pgd."""
    step_size: float | None = Field(None, gt=0)
    """Length of a step of the inner attack as a fraction of epsilon. Without one 2.5 / steps, and 1 at most."""

    def at(self, progress: float) -> AdversarialConfig:
        """How images are attacked at a progress of training in [0, 1]: not at all before `start`."""
        return NOT_ATTACKED if progress < self.start else self

    @property
    def factor(self) -> float:
        """Weight of the second term."""
        return self.weight if self.weight is not None else 6.0 if self.kind == "trades" else 1.0

    @property
    def passes(self) -> float:
        """Forward and backward passes of an image in one step; half a one is a forward pass alone."""
        return {"none": 1.0, "fgsm": 2.0, "pgd": 1.0 + self.steps, "trades": 2.5 + self.steps}[self.kind]


NOT_ATTACKED = AdversarialConfig()


def fgsm(images: torch.Tensor, gradient: torch.Tensor, threat: Threat) -> torch.Tensor:
    """One step of length epsilon along each image's gradient, inside the box; an image without a gradient stays as it is.

    That is so for REINFORCE without a baseline wherever the drawn action was wrong: its loss is 0.
    """
    return (images + threat.epsilon * steepest(gradient, threat.norm)).clamp(0, 1)


def madry(model: Model, images: torch.Tensor, labels: torch.Tensor, draws: Draws, config: AdversarialConfig) -> torch.Tensor:
    """Images (B, ...) after PGD on the cross-entropy from a random point of the ball (Madry et al. 2018, section 2.1).

    In contrast to an attack that is to succeed once, every image takes every step.
    """
    import torch
    from torch.nn.functional import cross_entropy

    start = start_in_ball(images, config.threat, draws, torch.arange(len(images)))
    return climb(lambda points: cross_entropy(model(points), labels, reduction="none"), images, start, config)


def trades(model: Model, images: torch.Tensor, draws: Draws, config: AdversarialConfig) -> torch.Tensor:
    """Images (B, ...) whose predictions differ most from the image's own (Zhang et al. 2019, algorithm 1)."""
    import torch

    with torch.no_grad():
        clean = model(images)
    noise = draws.normal(torch.arange(len(images)), *images.shape[1:])
    start = project(images + TRADES_START * noise, images, config.threat)
    return climb(lambda points: divergence(clean, model(points)), images, start, config)


def divergence(clean: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    """KL (B,) from the predictions of `attacked` logits (B, K) to those of `clean` ones, in nats."""
    from torch.nn.functional import kl_div

    return kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def climb(losses: Loss, images: torch.Tensor, start: torch.Tensor, config: AdversarialConfig) -> torch.Tensor:
    """Points within the threat around `images`, from `start` on `config.steps` steps uphill. No gradient is kept.

    Args:
        losses: one number an image, (B,), of points (B, ...).
    """
    import torch

    size = config.threat.epsilon * (config.step_size or min(1.0, 2.5 / config.steps))
    points = start.detach()
    with torch.enable_grad():
        for _ in range(config.steps):
            points.requires_grad_()
            (gradient,) = torch.autograd.grad(losses(points).sum(), points)
            points = project(points.detach() + size * steepest(gradient, config.threat.norm), images, config.threat)
    return points


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside the block a network predicts as it does when it is used: no dropout, and no statistics are kept."""
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)
