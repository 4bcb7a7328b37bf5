"""What the training of a classifier is told, and how much compute that comes to.

Every method has the same optimiser, schedule, batch size and model selection, so that what differs between two runs is the
method. Compute is counted in passes: a forward and a backward pass of one image; a forward pass alone is half a one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from squall.algorithms.adversarial_training import AdversarialConfig
from squall.algorithms.augmentation import AugmentConfig
from squall.algorithms.classifier_objectives import ObjectiveConfig
from squall.algorithms.gradient_controls import GradientControls
from squall.algorithms.schedules import Shape
from squall.platform.config import Config
from squall.platform.networks import FEATURE_NETWORKS, NetworkConfig


class AdamWConfig(Config):
    """AdamW and its learning rate."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly from 0."""
    schedule: Shape = "cosine"
    """What the rate does after warm-up; linear and cosine end at `final_fraction` of the peak."""
    final_fraction: float = Field(0.1, ge=0, le=1)
    """Fraction of the peak rate at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""


class ValidationConfig(Config):
    """Images set aside from the training split, and what they decide."""

    fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training images, every class by its own."""
    split_seed: int = 42
    """Of the choice of these images; apart from `seed`, so that runs with other seeds have the same."""
    every_epochs: float = Field(1.0, gt=0)
    """How often they are looked at."""
    select: Literal["best", "best_attacked", "last"] = "best"
    """Which weights are kept: those of the highest validation accuracy (the first of equals), of the highest under attack, or
    the last."""
    attack_steps: int = Field(0, ge=0)
    """Steps of a PGD attack (cross-entropy, `adversarial.threat`) on validation images; 0 attacks none."""

    @model_validator(mode="after")
    def _selectable(self) -> ValidationConfig:
        if self.select == "best_attacked" and not self.attack_steps:
            raise ValueError("select best_attacked needs attack_steps, such as 10")
        return self


class FitConfig(Config):
    """How a classifier is trained."""

    network: NetworkConfig = NetworkConfig()
    """What is trained."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What it learns from an image and its label."""
    adversarial: AdversarialConfig = AdversarialConfig()
    """Attacks on training images."""
    controls: GradientControls = GradientControls()
    """Penalties on gradients by the input."""
    augment: AugmentConfig = AugmentConfig()
    """How training images are varied."""
    optimiser: AdamWConfig = AdamWConfig()
    """AdamW, the same for every objective."""
    batch_size: int = Field(64, ge=1)
    """Images in one optimisation step, over all workers."""
    epochs: float = Field(20.0, gt=0)
    """How often every training image is seen."""
    passes: float | None = Field(None, gt=0)
    """Compute in place of `epochs`: forward and backward passes of each training image. A method that needs two in a step gets
    half the steps."""
    validation: ValidationConfig = ValidationConfig()
    """Images set aside."""
    seed: int = 0
    """Of weights, order, actions, attacks and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    @model_validator(mode="after")
    def _trainable(self) -> FitConfig:
        if self.network.architecture in FEATURE_NETWORKS:
            raise ValueError(f"network.architecture {self.network.architecture} keeps the weights that it was published with, "
                             "and a layer on it is fitted at once (squall.jobs.fit_features); train another network")
        return self

    def passes_at(self, progress: float) -> float:
        """Passes of an image in one step at a progress of training in [0, 1]."""
        return self.adversarial.at(progress).passes + self.controls.passes

    def total_steps(self, images: int) -> int:
        """Optimisation steps of a run on so many training images, validation set aside; at least one."""
        if self.passes is None:
            return max(1, round(self.epochs * images / self.batch_size))
        budget = self.passes * images / self.batch_size
        start = self.adversarial.start
        mean = start * self.passes_at(0.0) + (1 - start) * self.passes_at(1.0)
        return max(1, int(budget / mean + 1e-9))

    def planned_passes(self, images: int) -> float:
        """Passes of each training image in a whole run."""
        total = self.total_steps(images)
        return self.batch_size / images * sum(self.passes_at(step / total) for step in range(total))

    def validation_steps(self, images: int) -> list[int]:
        """After how many steps validation images are looked at; the last step is among them, and no other is close to it."""
        total = self.total_steps(images)
        every = max(1, round(self.validation.every_epochs * images / self.batch_size))
        return [*range(every, total - every // 2, every), total]
