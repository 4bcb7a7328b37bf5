"""Training on attacked images: FGSM as published for SL-adv and RL-adv, TRADES, and multi-step PGD."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from squall.algorithms.attacks.base import Norm, Threat
from squall.platform.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

Losses: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""One number an image, (B,), of images (B, ...)."""
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
    """Step of the inner attack; by default 2.5 epsilon / steps."""

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
    return (images + threat.epsilon * ascent(gradient, threat.norm)).clamp(0, 1)


def madry(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor,
          config: AdversarialConfig) -> torch.Tensor:
    """Images after PGD on the cross-entropy from a random point of the ball (Madry et al. 2018, sec. 2.1).

    Args:
        noise: uniform numbers in [0, 1), shaped like `images`.
    """
    from torch.nn.functional import cross_entropy

    threat = config.threat
    start = project(images, images + threat.epsilon * (2 * noise.to(images) - 1), threat)
    return climb(lambda points: cross_entropy(model(points), labels, reduction="none"), images, start, config)


def trades(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, noise: torch.Tensor, config: AdversarialConfig
           ) -> torch.Tensor:
    """Images whose predictions differ most from the image's own (Zhang et al. 2019, algorithm 1).

    Args:
        noise: standard normal numbers, shaped like `images`.
    """
    import torch

    with torch.no_grad():
        clean = model(images)
    start = project(images, images + TRADES_START * noise.to(images), config.threat)
    return climb(lambda points: divergence(clean, model(points)), images, start, config)


def divergence(clean: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    """KL (B,) from the predictions of `attacked` logits (B, K) to those of `clean` ones, in nats."""
    from torch.nn.functional import kl_div

    return kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def climb(losses: Losses, images: torch.Tensor, start: torch.Tensor, config: AdversarialConfig) -> torch.Tensor:
    """Points within the threat around `images`, from `start` on a number of steps uphill. No gradient is kept."""
    import torch

    step_size = config.step_size or 2.5 * config.threat.epsilon / config.steps
    points = start.detach()
    with torch.enable_grad():
        for _ in range(config.steps):
            points.requires_grad_()
            (gradient,) = torch.autograd.grad(losses(points).sum(), points)
            points = project(images, points.detach() + step_size * ascent(gradient, config.threat.norm), config.threat)
    return points


def ascent(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Direction of steepest ascent of each image (B, ...), of length 1 in the norm; zero where the gradient is zero."""
    return gradient.sign() if norm == "linf" else gradient / _length(gradient).clamp(min=1e-12)


def project(images: torch.Tensor, points: torch.Tensor, threat: Threat) -> torch.Tensor:
    """The points brought back to the threat's ball around each image, and into [0, 1]."""
    change = points - images
    if threat.norm == "linf":
        change = change.clamp(-threat.epsilon, threat.epsilon)
    else:
        change = change * (threat.epsilon / _length(change).clamp(min=1e-12)).clamp(max=1)
    return (images + change).clamp(0, 1)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside the block a network predicts as it does when it is used: no dropout, and no statistics are kept."""
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)


def _length(values: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each image, to be broadcast over it."""
    return values.flatten(1).norm(dim=1).view(-1, *[1] * (values.ndim - 1))
