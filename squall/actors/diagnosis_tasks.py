"""What a worker measures of a model: its gradients, and the loss around an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.gradient_geometry import in_float64
from squall.algorithms.gradient_indicators import GradientMeasurements, IndicatorConfig, measure
from squall.algorithms.landscape import Landscape, LandscapeConfig, loss_landscape

if TYPE_CHECKING:
    from squall.platform.image_classifiers import ImageClassifier
    from squall.platform.image_data import ImageSet


@dataclass(frozen=True)
class Measured:
    """A measurement and the passes that it took."""

    found: GradientMeasurements | Landscape
    queries: int
    gradients: int

    @classmethod
    def by(cls, found: GradientMeasurements | Landscape, *oracles: Oracle | None) -> Measured:
        asked = [oracle for oracle in oracles if oracle is not None]
        return cls(found, sum(int(oracle.queries.sum()) for oracle in asked),
                   sum(int(oracle.gradients.sum()) for oracle in asked))


@dataclass(frozen=True)
class Measure:
    """Measure gradients at and around some images, right or wrong."""

    model: int
    rows: np.ndarray
    threat: Threat
    seeds: Sequence[int]
    config: IndicatorConfig

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Measured:
        import torch

        images = data.tensor(self.rows).to(device)
        labels = torch.from_numpy(data.labels[self.rows]).to(device)
        twin = in_float64(model.module, images[0])
        oracle, precise = Oracle(model.module, len(images)), None if twin is None else Oracle(twin, len(images))
        found = measure(oracle, images, labels, self.threat, self.seeds, self.config, precise)
        return Measured.by(found, oracle, precise)


@dataclass(frozen=True)
class Survey:
    """Draw the loss around one image."""

    model: int
    row: int
    threat: Threat
    seed: int
    config: LandscapeConfig

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Measured:
        (image,) = data.tensor([self.row]).to(device)
        oracle = Oracle(model.module, 1)
        label = int(data.labels[self.row])
        return Measured.by(loss_landscape(oracle, image, label, self.threat, self.seed, self.config), oracle)
