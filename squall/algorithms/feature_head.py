"""A linear layer on frozen features, fitted in closed steps: multinomial logistic regression with an L2 penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SMALLEST_STD = 1e-3
"""Features that hardly vary are not blown up."""


def extract_features(backbone: torch.nn.Module, clips: np.ndarray | Sequence[np.ndarray], batch: int = 8) -> torch.Tensor:
    """float32 (N, D) of uint8 clips (N, T, H, W, 3); `backbone` takes clips (B, 3, T, H, W) in [0, 1]."""
    import torch

    device = next(backbone.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(clips), batch):
            pixels = torch.from_numpy(np.moveaxis(np.stack(list(clips[start:start + batch])), -1, 1))
            found.append(backbone(pixels.to(device).float().div(255)).cpu())
    return torch.cat(found).clone()  # made for inference, and a fit takes gradients


def fit_head(features: torch.Tensor, labels: np.ndarray, classes: int, penalty: float = 1e-2, steps: int = 200
             ) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (K, D) and bias (K,) of the layer that tells the classes apart, from the same start every time.

    Minimises the mean cross-entropy plus `penalty` / 2 times the squared weights, for features of mean 0 and deviation 1, by
    L-BFGS; what is returned is for the features as they are.

    Args:
        features: float32 (N, D).
        labels: (N,), in [0, `classes`).
        steps: at most.
    """
    import torch

    mean, std = features.mean(dim=0), features.std(dim=0, unbiased=False).clamp_min(SMALLEST_STD)
    normal, targets = (features - mean) / std, torch.from_numpy(np.asarray(labels)).long()
    weight, bias = torch.zeros(classes, features.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-5)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(normal @ weight.T + bias, targets) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    scaled = (weight / std).detach()
    return scaled, (bias - scaled @ mean).detach()
