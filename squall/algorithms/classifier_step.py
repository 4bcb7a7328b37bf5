"""One optimisation step of a classifier up to its gradients: objective, attack on the training images, penalties."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from squall.algorithms.adversarial_training import divergence, fgsm, frozen, madry, trades
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.augmentation import augment
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_objectives import Judged, draw_chance, entropy, judge
from squall.algorithms.classifier_stream import TrainingStream
from squall.algorithms.gradient_controls import penalty

if TYPE_CHECKING:
    import torch

SUMS = ("loss", "correct", "entropy", "reward", "unchanged")
"""What a step adds up over its images: loss, right predictions, entropy, reward, and images that FGSM could not change."""


@dataclass(frozen=True)
class StepGradients:
    """Gradients of a part of one batch; numbers are those of the whole batch, of which this part takes its own."""

    config: FitConfig
    module: torch.nn.Module
    stream: TrainingStream
    step: int
    """From 0."""
    progress: float
    """Of training, in [0, 1)."""
    own: slice
    """This worker's part of the batch."""
    mean: Callable[[torch.Tensor], torch.Tensor]
    """Mean of an image's figure over the whole batch."""

    def backward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add the gradient of the batch's mean loss to the parameters; returns `SUMS` over this part, (5,)."""
        import torch

        config, attack = self.config, self.config.adversarial.at(self.progress)
        images = self._varied(images)
        if attack.kind == "pgd":
            with frozen(self.module) as module:
                images = madry(module, images, labels, self._draws(images), attack)
        images.requires_grad_(attack.kind == "fgsm" or config.controls.active)
        with self._differentiable_twice():
            logits = self.module(images)
        judged = self._judge(logits, labels, "actions")
        losses = judged.loss
        if attack.kind == "trades":
            losses = losses + attack.factor * divergence(logits, self.module(self._unsettled(images)))
        self._add_gradient(losses, retain_graph=config.controls.active)
        uphill, unchanged = images.grad, losses.new_zeros(())
        if config.controls.active:
            losses = losses + self._penalise(images, logits, labels)
        if attack.kind == "fgsm":
            changed = fgsm(images.detach(), uphill, attack.threat)
            again = attack.factor * self._judge(self.module(changed), labels, "actions on attacked images").loss
            self._add_gradient(again)
            losses, unchanged = losses + again, (changed == images).flatten(1).all(1).sum()
        rewards = losses.new_zeros(()) if judged.rewards is None else judged.rewards.sum()
        right = (logits.argmax(-1) == labels).sum()
        return torch.stack([losses.sum(), right, entropy(logits).sum(), rewards, unchanged]).detach()

    def _varied(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        if not self.config.augment.active:
            return images
        chance = torch.rand(self.config.batch_size, 4, generator=self.stream.generator(self.step, "augment"))
        return augment(self.config.augment, images, chance[self.own])

    def _judge(self, logits: torch.Tensor, labels: torch.Tensor, purpose: str) -> Judged:
        objective, chance = self.config.objective.at(self.progress), None
        if objective.samples:
            numbers = draw_chance(objective, self.stream.generator(self.step, purpose), self.config.batch_size)
            chance = numbers[self.own]
        rate = objective.exploration.at(self.progress)
        return judge(objective, logits, labels, rate=rate, chance=chance, mean=self.mean)

    def _unsettled(self, images: torch.Tensor) -> torch.Tensor:
        """TRADES' images."""
        with frozen(self.module) as module:
            return trades(module, images.detach(), self._draws(images), self.config.adversarial)

    def _penalise(self, images: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        import torch

        controls = self.config.controls
        directions = torch.randn(self.config.batch_size, controls.projections, logits.shape[-1],
                                 generator=self.stream.generator(self.step, "directions"))
        penalties = penalty(controls, images, logits, labels, directions[self.own])
        self._add_gradient(penalties)
        return penalties

    def _add_gradient(self, losses: torch.Tensor, retain_graph: bool = False) -> None:
        (losses.sum() / self.config.batch_size).backward(retain_graph=retain_graph)

    def _draws(self, images: torch.Tensor) -> Draws:
        return self.stream.draws(self.step, range(self.config.batch_size)[self.own], images.device)

    def _differentiable_twice(self) -> AbstractContextManager[None]:
        """Attention as plain arithmetic where a gradient is differentiated again, which fused kernels cannot do."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(SDPBackend.MATH) if self.config.controls.active else nullcontext()
