"""Models that attacks are tried on: trained on digits in a second, linear with a known worst case, and one that counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Digits:
    """A network that is somewhat robust on 8x8 digits, and images that it gets right."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def first(self, count: int) -> Digits:
        return Digits(self.model, self.images[:count], self.labels[:count])


def train_digits(epochs: int = 6, epsilon: float = 0.1) -> Digits:
    """A small convolutional network, trained on one-step adversarial digits for a second or two."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
                              nn.Flatten(), nn.Linear(512, 10))
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(1400).split(64):
                points = images[rows].requires_grad_()
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(points), labels[rows]), points)
                points = (points.detach() + epsilon * gradient.sign()).clamp(0, 1)
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(points), labels[rows]).backward()
                optimiser.step()
    model.eval()
    with torch.no_grad():
        right = (model(images).argmax(1) == labels)[1400:].nonzero()[:, 0] + 1400
    return Digits(model, images[right], labels[right])


def linear_model(classes: int, pixels: int = 12, seed: int = 0) -> nn.Sequential:
    """Logits that are linear in the pixels of images (1, 1, `pixels`)."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(pixels, classes)
    layer.weight.data = torch.randn(classes, pixels, generator=generator)
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer).eval()


def linf_worst_margins(model: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Largest difference (n, K) that any change within ball and box gives each class's logit over the label's."""
    weight = model[1].weight.data
    ahead = weight[None] - weight[labels][:, None]
    flat = images.flatten(1)[:, None]
    change = torch.where(ahead > 0, (1 - flat).clamp(max=epsilon), -flat.clamp(max=epsilon))
    return (ahead * (flat + change)).sum(-1)


def l2_worst_margins(model: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The same for a Euclidean ball that the box does not cut."""
    weight = model[1].weight.data
    ahead = weight[None] - weight[labels][:, None]
    return (ahead * images.flatten(1)[:, None]).sum(-1) + epsilon * ahead.norm(dim=-1)


@dataclass
class Counting:
    """A model that counts its own passes."""

    model: nn.Module
    forward: int = 0
    backward: int = field(default=0, init=False)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.forward += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)
