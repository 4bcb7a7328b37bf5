"""Small classifiers of scikit-learn's digits, trained in seconds, and masks that hide the gradients of one."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import nn

from squall.algorithms.attacks.base import Attack, Oracle, Outcome, Threat
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.attacks.registry import parse_attack
from squall.algorithms.gradient_indicators import IndicatorConfig, measure
from squall.algorithms.masking_evidence import Evidence, Probe, Trial, masking_attacks, role_of

EPSILON = 0.1
"""Linf radius that adversarial training here is for, with pixels in [0, 1]."""


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1,797 images (N, 1, 8, 8) in [0, 1], shuffled, and labels (N,). Models are trained on the first 1,200."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def trained(adversarial: bool = False, epochs: int = 8, scale: float = 1.0, seed: int = 0) -> nn.Module:
    """A network trained by cross-entropy, `adversarial` on the images of PGD-5 within `EPSILON`, with logits times `scale`."""
    torch.manual_seed(seed)
    images, labels = (values[:1200] for values in digits())
    model = nn.Sequential(network(), Scaled(scale))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            shown = _attacked(model, images[rows], labels[rows]) if adversarial else images[rows]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(shown), labels[rows]).backward()
            optimiser.step()
    return model.eval()


class Scaled(nn.Module):
    """Logits times a number: predictions stay, and cross-entropy saturates where it is large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.scale


class Quantised(nn.Module):
    """Pixels rounded to a few levels: the gradient by them is zero everywhere."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.levels).round() / self.levels


class Rippled(nn.Module):
    """Pixels with a ripple that is 0 at the grey levels of the data: the gradient is right at an image, and nowhere else."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.height * torch.sin(images * (2 * math.pi * 16))


class Shuffled(nn.Module):
    """A random shift and noise at every call, as in defences by random transforms: gradients are of another function."""

    def __init__(self, noise: float, seed: int = 0) -> None:
        super().__init__()
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shifts = torch.randint(-1, 2, (len(images), 2), generator=self.generator).tolist()
        moved = torch.stack([image.roll(shift, (-2, -1)) for image, shift in zip(images, shifts, strict=True)])
        return moved + self.noise * torch.randn(images.shape, generator=self.generator)


def _attacked(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int = 5) -> torch.Tensor:
    points = images + EPSILON * (2 * torch.rand_like(images) - 1)
    for _ in range(steps):
        points = points.clamp(0, 1).requires_grad_()
        loss = nn.functional.cross_entropy(model(points), labels)
        (gradient,) = torch.autograd.grad(loss, points)
        points = images + (points + 2.5 * EPSILON / steps * gradient.sign() - images).detach().clamp(-EPSILON, EPSILON)
    return points.clamp(0, 1).detach()


def battery(model: nn.Module, source: nn.Module, count: int = 200, epsilon: float = EPSILON) -> Evidence:
    """What an attack run measures on `count` held-out images: the attacks that the checks need, with transfer from `source` in
    place of Square, and Auto-PGD."""
    images, labels = (values[1200:1200 + count] for values in digits())
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    threat = Threat(epsilon=epsilon)
    probes = [probe for probe in masking_attacks(threat, images.shape[1:]) if probe.entry != "square"]
    probes += [Probe({"kind": "apgd-ce", "steps": 20}, threat), Probe({"kind": "apgd-dlr", "steps": 20}, threat)]
    fooled, roles = {}, {}
    for entry, budget in probes:
        name, attack = parse_attack(entry)
        roles[name] = role_of(attack)
        outcome = _run(attack, model, images, labels, budget)
        fooled[Trial(name, budget.norm, budget.epsilon)] = _wrong(model, outcome.adversarial, labels)
    shown = _run(PGD(steps=20), source, images, labels, threat).adversarial
    fooled[Trial("transfer", threat.norm, epsilon)] = _wrong(model, shown, labels)
    cheap = IndicatorConfig(samples=2, steps=2)
    zero = measure(Oracle(model, len(images)), images, labels, threat, range(len(images)), cheap).zero
    return Evidence(fooled, {**roles, "transfer": "black_box"}, "pgd", tuple(images.shape[1:]), zero)


def _run(attack: Attack, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: Threat) -> Outcome:
    return attack.run(Oracle(model, len(images)), images, labels, threat, range(len(images)))


def _wrong(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return (model(images).argmax(1) != labels).numpy()
