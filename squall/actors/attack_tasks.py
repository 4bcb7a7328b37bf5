"""What a worker is asked to do with a model: see some images, or attack them. Each task is fixed before any worker runs it.

A task's images, and the order of them, do not depend on the workers: the same model gives the same results on any number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from squall.algorithms.attacks.base import Attack, Oracle, Threat
from squall.platform.errors import DataError

if TYPE_CHECKING:
    import torch

    from squall.platform.image_classifiers import ImageClassifier
    from squall.platform.image_data import ImageSet

SLACK = 1e-4
"""Rounding that an example may be beyond its budget by, as a part of it; and beyond [0, 1], in absolute terms."""


class Task(Protocol):
    """Work for one worker. Tasks are pickled: plain values, arrays and configurations alone."""

    @property
    def model(self) -> int:
        """Number of the model in the pool."""

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Any:
        """The result; DataError where the model or the data do not allow one."""


@dataclass(frozen=True)
class Answers:
    """What a model said about n images in the end, and what it took."""

    prediction: np.ndarray
    """int64 (n,)."""
    queries: np.ndarray
    gradients: np.ndarray
    """int64 (n,): passes of each image, the one of `prediction` among them."""
    l2: np.ndarray
    linf: np.ndarray
    """float64 (n,): size of the change."""
    by: tuple[str | None, ...]
    """As in `Outcome`; None where the prediction is the label."""
    adversarial: np.ndarray | None = None
    """float32 (n, ...), of an attack."""


@dataclass(frozen=True)
class Look:
    """Ask a model about images as they are."""

    model: int
    rows: np.ndarray
    """Places in the data, int64 (n,)."""

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Answers:
        return _seen(model, data.tensor(self.rows).to(device), np.zeros(len(self.rows)), np.zeros(len(self.rows)))


@dataclass(frozen=True)
class Show:
    """Ask a model about examples that were made on another one."""

    model: int
    rows: np.ndarray
    examples: np.ndarray
    """float32 (n, ...) in [0, 1]."""

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Answers:
        import torch

        examples = torch.tensor(self.examples)
        return _seen(model, examples.to(device), *_sizes(examples - data.tensor(self.rows)))


@dataclass(frozen=True)
class Strike:
    """Attack images, each of which the model gives its label."""

    model: int
    rows: np.ndarray
    attack: Attack
    threat: Threat
    seeds: Sequence[int]
    """One for each image."""

    def run(self, model: ImageClassifier, data: ImageSet, device: str) -> Answers:
        """Attack, see that the examples are within the threat, and ask the model what it makes of each."""
        import torch

        images = data.tensor(self.rows).to(device)
        labels = torch.from_numpy(data.labels[self.rows]).to(device)
        oracle = Oracle(model.module, len(images))
        outcome = self.attack.run(oracle, images, labels, self.threat, self.seeds)
        examples = outcome.adversarial.detach()
        l2, linf = _sizes(examples - images)
        self._check(examples, l2 if self.threat.norm == "l2" else linf)
        prediction = oracle.logits(examples, torch.arange(len(images), device=device)).argmax(1)
        stands = (prediction == labels).cpu().tolist()
        kind = self.attack.kind
        return Answers(prediction.cpu().numpy(), oracle.queries.numpy(), oracle.gradients.numpy(), l2, linf,
                       tuple(None if stood else by or kind for stood, by in zip(stands, outcome.by, strict=True)),
                       examples.float().cpu().numpy())

    def _check(self, examples: torch.Tensor, sizes: np.ndarray) -> None:
        size = float(sizes.max(initial=0.0))
        if not size <= self.threat.epsilon * (1 + SLACK):  # NaN too
            raise DataError(f"{self.attack.kind} changed an image by {size:.6g} ({self.threat.norm}), more than epsilon = "
                            f"{self.threat.epsilon:.6g}", reason="broken_attack")
        if examples.min() < -SLACK or examples.max() > 1 + SLACK:
            raise DataError(f"{self.attack.kind} left [0, 1]: values from {examples.min():.6g} to {examples.max():.6g}",
                            reason="broken_attack")


def _seen(model: ImageClassifier, images: torch.Tensor, l2: np.ndarray, linf: np.ndarray) -> Answers:
    import torch

    oracle = Oracle(model.module, len(images))
    prediction = oracle.logits(images, torch.arange(len(images), device=images.device)).argmax(1).cpu().numpy()
    return Answers(prediction, oracle.queries.numpy(), oracle.gradients.numpy(), l2, linf, (None,) * len(images))


def _sizes(change: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """L2 and Linf length of each change, float64 (n,) each."""
    flat = change.detach().flatten(1).double()
    return flat.norm(dim=1).cpu().numpy(), flat.abs().amax(1).cpu().numpy()
