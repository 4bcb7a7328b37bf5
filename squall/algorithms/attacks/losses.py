"""What attacks climb: losses (n,) of logits (n, K) that grow as an image leaves its class, or nears a target.

`dlr` and its targeted form are equations 3 and 4 of Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
ensemble of diverse parameter-free attacks"; `cw` is the logit difference of Carlini & Wagner 2017, "Towards evaluating the
robustness of neural networks", section V-A. Both are blind to the scale of the logits, by which cross-entropy saturates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from squall.platform.errors import ConfigError

if TYPE_CHECKING:
    import torch

LossName = Literal["ce", "dlr", "cw"]
TINY = 1e-12


def ce(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of the label; with targets minus that of the target."""
    from torch.nn.functional import cross_entropy

    if targets is None:
        return cross_entropy(logits, labels, reduction="none")
    return -cross_entropy(logits, targets, reduction="none")


def cw(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    """Best other logit, or the target's, minus the label's: above 0 the image is fooled."""
    others = best_other(logits, labels) if targets is None else _at(logits, targets)
    return others - _at(logits, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    """Difference of logits ratio: `cw` over a spread of the largest logits.

    Raises:
        ConfigError: fewer than three classes, or four with targets.
    """
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        raise ConfigError(f"the {'targeted ' if needed == 4 else ''}DLR loss ranks {needed} logits, and this model has"
                          f" {logits.shape[1]} classes; use the loss cw or ce, and leave "
                          f"{'apgd-t' if needed == 4 else 'apgd-dlr'} out of the attacks")
    top = logits.topk(needed, dim=1)
    if targets is None:
        right = (top.indices[:, 0] == labels).to(logits.dtype)
        spread = top.values[:, 0] - top.values[:, 2]
        return -(_at(logits, labels) - top.values[:, 1] * right - top.values[:, 0] * (1 - right)) / (spread + TINY)
    spread = top.values[:, 0] - 0.5 * (top.values[:, 2] + top.values[:, 3])
    return -(_at(logits, labels) - _at(logits, targets)) / (spread + TINY)


def best_other(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Largest logit (n,) of those that are not the label's."""
    return logits.scatter(1, labels[:, None], float("-inf")).max(dim=1).values


def runners_up(logits: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` classes (n, count) of the largest logits besides the label's, largest first; fewer where there are fewer."""
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


LOSSES: Mapping[str, Callable[..., torch.Tensor]] = MappingProxyType({"ce": ce, "dlr": dlr, "cw": cw})
"""By name: ``loss(logits, labels, targets=None)``."""


def _at(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes[:, None])[:, 0]
