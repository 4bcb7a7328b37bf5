"""What an attack is: correctly classified images go in, changed images and what they cost come out.

Attacks touch a model through an `Oracle` alone, which counts every pass per image. All randomness of an image follows from
its own seed, so that its result does not depend on the images beside it or on the number of workers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from pydantic import Field

from squall.algorithms.attacks.checks import check_attack
from squall.algorithms.attacks.draws import Draws
from squall.platform.config import Config
from squall.platform.errors import DataError

if TYPE_CHECKING:
    import torch

Norm = Literal["linf", "l2"]
Model: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""Logits (B, K) of float images (B, ...) with values in [0, 1]; normalisation is inside."""
Loss: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""One number an image, (B,), of its logits (B, K); an attack makes it large."""


class Threat(Config):
    """How far an image may be changed. Changed images stay within [0, 1] too."""

    norm: Norm = "linf"
    """`linf`: no value changes by more than epsilon; `l2`: the Euclidean length of the change is at most epsilon."""
    epsilon: float = Field(8 / 255, gt=0, allow_inf_nan=False)
    """Radius, with pixel values in [0, 1]."""


@dataclass(frozen=True)
class Outcome:
    """What an attack did to B images."""

    adversarial: torch.Tensor
    """float32 (B, ...), within the threat and in [0, 1]; for an image that stands, the attack's best attempt at it."""
    fooled: torch.Tensor
    """bool (B,): the model gives `adversarial` another class than the image's label."""
    by: tuple[str | None, ...]
    """Which attack of a schedule fooled the image; the attack itself where it is no schedule; None for one that stands."""


class Oracle:
    """A model that is asked about B images in turn, and counts what it is asked per image.

    `rows` says which of the B images a batch is about, an image as often as it is asked about.
    """

    def __init__(self, model: Model, count: int, *, as_given: bool = False) -> None:
        """Ask `model` about `count` images.

        Args:
            as_given: show the model pictures as they lie in memory. Otherwise those on the CPU are laid out with channels last,
                with which convolution and pooling take half the time; a model that cannot read them so gets them as given.
        """
        import torch

        self._model = model
        self._as_given = as_given
        self.queries = torch.zeros(count, dtype=torch.int64)
        """Forward passes of each image."""
        self.gradients = torch.zeros(count, dtype=torch.int64)
        """Backward passes of each image; each has a forward pass of its own among `queries`."""

    def logits(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(n, K) of images (n, ...), of which row i is about image ``rows[i]``; no gradient is kept.

        Raises:
            DataError: the model's output is not finite or no (n, K) (reason ``bad_output``).
        """
        import torch

        with torch.inference_mode():
            result, _ = self._ask(images)
        self._count(self.queries, rows)
        return _checked(result, len(images)).clone()

    def gradient(self, images: torch.Tensor, rows: torch.Tensor, loss: Loss
                 ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (n, K), loss (n,) and the gradient of each image's loss by its pixels, shaped like `images`.

        Raises:
            DataError: as `logits`, and where a gradient is not finite.
        """
        import torch

        with torch.enable_grad():
            result, points = self._ask(images, gradient=True)
            logits = _checked(result, len(images))
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), points)
        self._count(self.queries, rows)
        self._count(self.gradients, rows)
        if not torch.isfinite(gradient).all():
            raise DataError("the model's gradient by its input is not finite", reason="bad_output")
        return logits.detach(), losses.detach(), gradient.contiguous()

    def part(self, rows: torch.Tensor, *, as_given: bool = False) -> Oracle:
        """An oracle about some of the images, with counts of its own; `add` joins them to these."""
        return Oracle(self._model, len(rows), as_given=as_given or self._as_given)

    def add(self, part: Oracle, rows: torch.Tensor) -> None:
        """Join the counts of the `part` about `rows`."""
        self.queries[rows.cpu()] += part.queries
        self.gradients[rows.cpu()] += part.gradients

    def _ask(self, images: torch.Tensor, gradient: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's output, and the tensor that it was shown."""
        shown = images if self._as_given else _channels_last(images)
        shown = shown.detach().requires_grad_(gradient)
        try:
            return self._model(shown), shown
        except RuntimeError:
            if shown.data_ptr() == images.data_ptr() and shown.stride() == images.stride():
                raise
        self._as_given = True
        return self._ask(images, gradient)

    def _count(self, counter: torch.Tensor, rows: torch.Tensor) -> None:
        counter += rows.cpu().bincount(minlength=len(counter))


class Attack(Config):
    """Settings of an attack, and the attack itself."""

    kind: ClassVar[str]

    @property
    def indivisible(self) -> bool:
        """Whether all images must come in one call, because the outcome depends on which stand beside one another."""
        return False

    @abstractmethod
    def run(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int]) -> Outcome:
        """Attack B images, each until it is fooled or the attack's own budget is spent.

        Args:
            images: float32 (B, ...) in [0, 1], each of which the model gives its label.
            labels: int64 (B,).
            seeds: one for each image.

        Raises:
            DataError: images outside [0, 1], of another type or shape, labels or seeds that do not match them.
            ConfigError: an epsilon above the box.
        """


class Component(Attack):
    """An attack that may be a part of a schedule. Subclasses set `kind` and implement `perturb`."""

    def run(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Sequence[int]) -> Outcome:
        """As `Attack.run`."""
        check_attack(images, labels, threat, seeds)
        return self.perturb(oracle, images, labels, threat, Draws(seeds, images.device))

    @abstractmethod
    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        """As `run`, of images that are known to be sound, with all randomness from `draws`; row i of B has stream i."""


def _checked(logits: torch.Tensor, count: int) -> torch.Tensor:
    import torch

    if logits.ndim != 2 or len(logits) != count:
        raise DataError(f"the model returned {tuple(logits.shape)} for {count} images; expected ({count}, classes)",
                        reason="bad_output")
    if not torch.isfinite(logits).all():
        raise DataError("the model's logits are not finite", reason="bad_output")
    return logits


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    """Pictures (n, C, H, W) on the CPU with their channels side by side in memory; others as they are."""
    import torch

    if images.ndim != 4 or images.device.type != "cpu":
        return images
    _, channels, height, width = images.shape
    if channels > 1:
        return images.to(memory_format=torch.channels_last)
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))  # strides tell torch, bytes are the same
