"""Training a classifier, written once for a single process and for any number of workers.

Whoever runs it hands in a `Share`; without one the whole batch is this process's. Order, actions, exploration, augmentation
and noise follow from (seed, step, place in the batch), so that losses agree to rounding whatever the number of workers. Two
kinds of layer are exceptions: dropout draws on each worker for itself, and batch normalisation sees a worker's part alone.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from squall.algorithms.adversarial_training import frozen
from squall.algorithms.attacks.base import Oracle
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_step import SUMS, StepGradients
from squall.algorithms.classifier_stream import TrainingStream
from squall.algorithms.schedules import learning_rate_at
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.image_data import ImageSet, split_validation
from squall.platform.networks import build_network
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch

VALIDATION, ATTACKED = "accuracy/validation", "accuracy/attacked"
IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's."""

    rank: int = 0
    workers: int = 1
    add: Callable[[torch.Tensor], None] = lambda values: None
    """Adds up a tensor over all workers, in place."""

    def of(self, count: int) -> slice:
        """This process's part of `count` things."""
        return slice(self.rank * count // self.workers, (self.rank + 1) * count // self.workers)


@dataclass
class Best:
    """The weights that model selection would keep."""

    score: float = -1.0
    step: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    """Of the validation images."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


class ClassifierTraining:
    """A classifier in training. `advance` to one of `validation_steps`, `validate`, and so on; then `finish`."""

    def __init__(self, config: FitConfig, data: ImageSet, share: Share | None = None) -> None:
        """`data` is the training split; validation images are set aside here.

        Raises:
            DataError: there are no images, or labels that are no classes (reason ``no_images`` or ``bad_label``).
            ConfigError: the network does not take such images, or more workers than images in a batch.
        """
        import torch

        check_images(data)
        self.config, self.share, self.step = config, share or Share(), 0
        if config.batch_size < self.share.workers:
            raise ConfigError(f"batch_size {config.batch_size} does not go round {self.share.workers} workers; make it larger")
        validation = config.validation
        self.images, self.validation_images = split_validation(data, validation.fraction, validation.split_seed)
        self.total_steps = config.total_steps(len(self.images))
        self.validation_steps = config.validation_steps(len(self.images))
        self.mean, self.std = self.images.statistics()
        self.device = torch.device(device_of(config))
        self.stream = TrainingStream(config.seed, len(self.images), config.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "weights"))
            module = build_network(config.network, data.shape, len(data.classes), self.mean, self.std)
        self.module = module.to(self.device).train()
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=config.optimiser.learning_rate,
                                           betas=config.optimiser.betas, weight_decay=config.optimiser.weight_decay)
        self.best = Best()
        self.totals: Counter[str] = Counter()
        """Sums since the last `row`."""
        self.passes = self.seconds = 0.0
        """Passes of all training images together, and seconds of steps, since the beginning."""

    def advance(self, until: int) -> None:
        """Train up to a number of steps.

        Raises:
            SquallError: loss or gradient is not finite; the message names the step.
        """
        import torch

        started = time.monotonic()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            while self.step < until:
                torch.manual_seed(self.stream.layers_seed(self.step, self.share.rank))
                self._train_step()
        elapsed = time.monotonic() - started
        self.totals["seconds"] += elapsed
        self.seconds += elapsed

    def row(self) -> dict[str, float]:
        """Figures of the steps since the last call, for metrics.jsonl. Accuracy is that on images as they were learned from."""
        sums, progress = self.totals, (self.step - 1) / self.total_steps
        images, objective = sums["images"], self.config.objective.at(progress)
        row = {"loss": sums["loss"] / images, "accuracy/train": sums["correct"] / images,
               "predictive_entropy": sums["entropy"] / images, "grad_norm": sums["grad_norm"] / sums["steps"],
               "learning_rate": self._rate(self.step - 1), "passes": self.passes / len(self.images),
               "time/train": sums["seconds"] / sums["steps"]}
        if objective.rewards and sums["rewarded"]:
            row |= {"reward": sums["reward"] / sums["rewarded"], "exploration": objective.exploration.at(progress)}
        if sums["attacked"]:
            row["unchanged"] = sums["unchanged"] / sums["attacked"]
        self.totals = Counter()
        return row

    def validate(self) -> dict[str, float]:
        """Accuracy on the validation images, attacked too where that is asked for; keeps the weights that are to be kept."""
        validation, found = self.config.validation, {VALIDATION: self.accuracy(self.validation_images)}
        if validation.attack_steps:
            found[ATTACKED] = self.accuracy(self.validation_images, validation.attack_steps)
        score = found[ATTACKED if validation.select == "best_attacked" else VALIDATION]
        if validation.select == "last" or score > self.best.score:
            weights = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
            self.best = Best(score, self.step, found, weights)
        return found

    def accuracy(self, data: ImageSet, attack_steps: int = 0) -> float:
        """Share of images that the network, as it is now, gives their label; all workers take part.

        Args:
            attack_steps: of a PGD attack within `adversarial.threat` on those that are right; 0 attacks none.
        """
        import torch

        own = np.arange(len(data))[self.share.of(len(data))]
        right = torch.zeros((), device=self.device)
        with frozen(self.module) as module:
            for start in range(0, len(own), IMAGES_AT_ONCE):
                rows = own[start:start + IMAGES_AT_ONCE]
                images, labels = self._load(data, rows)
                with torch.no_grad():
                    stands = module(images).argmax(-1) == labels
                if attack_steps and stands.any():
                    stands[stands.clone()] = self._withstand(images[stands], labels[stands], rows[stands.cpu()], attack_steps)
                right += stands.sum()
        self.share.add(right)
        return float(right) / len(data)

    def _withstand(self, images: torch.Tensor, labels: torch.Tensor, rows: np.ndarray, steps: int) -> torch.Tensor:
        seeds = [derive_seed(self.config.seed, "validation attack", int(row)) for row in rows]
        oracle = Oracle(self.module, len(images))
        return ~PGD(steps=steps).run(oracle, images, labels, self.config.adversarial.threat, seeds).fooled

    def finish(self) -> None:
        """Put the weights that model selection keeps, those of `best`, into the network."""
        self.module.load_state_dict(self.best.weights)
        self.module.eval()

    def spent(self) -> dict[str, float]:
        """Steps, passes of each training image, and seconds of training without validation."""
        return {"steps": self.step, "passes": self.passes / len(self.images), "seconds": self.seconds}

    def _train_step(self) -> None:
        import torch

        rows, progress = self.stream.rows(self.step), self.step / self.total_steps
        own = self.share.of(len(rows))
        images, labels = self._load(self.images, rows[own])
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        work = StepGradients(self.config, self.module, self.stream, self.step, progress, own, self._mean)
        sums = work.backward(images, labels)
        self._join(sums)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.optimiser.max_grad_norm)
        self._count(dict(zip(SUMS, sums.tolist(), strict=True)) | {"grad_norm": float(norm)}, progress)
        self.optimiser.step()
        self.step += 1

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        total = values.sum()
        self.share.add(total)
        return total / self.config.batch_size

    def _join(self, sums: torch.Tensor) -> None:
        """Add up gradients and sums over the workers, and average running statistics, in one exchange."""
        import torch

        if self.share.workers == 1:
            return
        statistics = [buffer for buffer in self.module.buffers() if buffer.is_floating_point()]
        for buffer in statistics:
            buffer.div_(self.share.workers)
        parts = [*(parameter.grad for parameter in self.module.parameters() if parameter.grad is not None), *statistics, sums]
        joined = torch.cat([part.flatten() for part in parts])
        self.share.add(joined)
        for part, values in zip(parts, joined.split([part.numel() for part in parts]), strict=True):
            part.copy_(values.view_as(part))

    def _count(self, values: Mapping[str, float], progress: float) -> None:
        images = self.config.batch_size
        for name, value in (("loss", values["loss"] / images), ("length of the gradient", values["grad_norm"])):
            if not math.isfinite(value):
                raise SquallError(f"step {self.step + 1} of {self.total_steps}: the {name} is {value}; lower "
                                  "optimiser.learning_rate, or let it warm up (optimiser.warmup_steps)")
        self.passes += images * self.config.passes_at(progress)
        self.totals.update(values)
        self.totals.update(steps=1, images=images, rewarded=images * self.config.objective.at(progress).rewards,
                           attacked=images * (self.config.adversarial.at(progress).kind == "fgsm"))

    def _rate(self, step: int) -> float:
        return learning_rate_at(self.config.optimiser, step, self.total_steps)

    def _load(self, data: ImageSet, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        return data.tensor(rows).to(self.device), torch.from_numpy(data.labels[rows]).to(self.device)


def check_images(data: ImageSet) -> None:
    """Raise DataError for a data set that no classifier can learn from."""
    if not len(data):
        raise DataError(f"{data.source}: there are no images to train on", reason="no_images")
    bad = np.flatnonzero((data.labels < 0) | (data.labels >= len(data.classes)))
    if len(bad):
        raise DataError(f"{data.source}: image {bad[0]} has label {data.labels[bad[0]]}, and the {len(data.classes)} classes "
                        f"are numbered 0 to {len(data.classes) - 1} ({len(bad)} such images)", reason="bad_label")


def device_of(config: FitConfig) -> str:
    """Where a run computes. Raises ConfigError where it asks for a GPU that is not there."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda: torch sees no GPU here; take cpu or auto")
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
