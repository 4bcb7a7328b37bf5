"""The loss around an image, against planes that are known, and on models that are smooth or masked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from digit_models import Quantised, digits, trained
from torch import nn

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.landscape import Landscape, LandscapeConfig, LandscapeRecord, loss_landscape

CONFIG = LandscapeConfig(points_per_side=9, steps=10)


def landscape(model, image: torch.Tensor, label: int, threat: Threat, config: LandscapeConfig = CONFIG) -> Landscape:
    return loss_landscape(Oracle(model, 1), image, label, threat, 3, config)


def two_classes() -> nn.Module:
    """Logits (sum, 0): images of class 0 fall where their sum is below 0, which the box forbids."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight[0], model[1].weight[1], model[1].bias[:] = 1, 0, 0
    return model


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_of_a_linear_model_is_known_on_the_plane(norm):
    """The attack goes down the sum of pixels: by 16 an epsilon for Linf, by 4 for L2; at right angles the sum stays."""
    image = torch.full((1, 4, 4), 0.1)
    config = CONFIG.model_copy(update={"clip": False})
    found = landscape(two_classes(), image, 0, Threat(norm=norm, epsilon=0.09), config)
    rate = 16 if norm == "linf" else 4
    expected = np.log1p(np.exp(-(1.6 - rate * found.axis)))
    np.testing.assert_allclose(found.loss, np.broadcast_to(expected[:, None], (19, 19)), atol=2e-2 if norm == "l2" else 1e-4)
    np.testing.assert_array_equal(found.correct[:, 9], rate * found.axis < 1.6)


def test_clipping_keeps_points_in_the_box_and_is_told():
    seen = []

    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((images.min().item(), images.max().item()))
            return two(images)

    two, image = two_classes(), torch.full((1, 4, 4), 0.1)
    clipped = landscape(Watching(), image, 0, Threat(epsilon=0.3))
    assert min(low for low, _ in seen) >= 0 and max(high for _, high in seen) <= 1
    assert clipped.record.clipped and clipped.record.wrong == 0
    free = landscape(Watching(), image, 0, Threat(epsilon=0.3), CONFIG.model_copy(update={"clip": False}))
    assert min(low for low, _ in seen) < 0 and not free.record.clipped and free.record.wrong > 0.2


def test_a_record_says_what_the_picture_shows():
    images, labels = digits()
    model = trained()
    row = next(row for row in range(1200, 1300) if model(images[row:row + 1]).argmax() == labels[row])
    found = landscape(model, images[row], int(labels[row]), Threat(epsilon=0.3))
    record, middle = found.record, 9
    near = slice(6, 13)
    assert found.correct[middle, middle] and record.attack_fooled
    with torch.no_grad():
        centre = nn.functional.cross_entropy(model(images[row:row + 1]), labels[row:row + 1]).item()
    assert found.loss[middle, middle] == pytest.approx(centre, rel=1e-4, abs=1e-6)
    assert record.loss_centre == pytest.approx(found.loss[middle, middle], rel=1e-5)
    assert record.loss_highest == pytest.approx(found.loss[near, near].max(), rel=1e-5) and record.loss_highest > 1
    assert 0 < record.wrong == pytest.approx(1 - found.correct[near, near].mean(), abs=1e-6)
    assert LandscapeRecord(**json.loads(record.model_dump_json())) == record
    assert record.plateau == 0


def test_a_masked_model_is_a_plateau_with_steps():
    images, labels = digits()
    masked = nn.Sequential(Quantised(4), trained())
    found = landscape(masked, images[1205], int(labels[1205]), Threat(epsilon=0.02))
    assert found.record.plateau > 0.3


def test_the_same_seed_gives_the_same_picture_whatever_goes_through_at_once():
    images, labels = digits()
    one, other = (landscape(trained(), images[1201], int(labels[1201]), Threat(epsilon=0.1),
                            CONFIG.model_copy(update={"points_per_pass": size})) for size in (361, 50))
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-4, atol=1e-6)
