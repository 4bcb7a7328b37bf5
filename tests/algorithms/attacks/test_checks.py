"""What attacks refuse, and how they say so."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Digits
from pydantic import ValidationError

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.checks import check_images
from squall.algorithms.attacks.pgd import PGD
from squall.platform.errors import ConfigError, DataError

IMAGES, LABELS = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 2])


def changed(value: float) -> torch.Tensor:
    images = IMAGES.clone()
    images[1, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(("images", "labels", "message"), [
    (changed(1.5), LABELS, r"image 1 of 3 \(1 in all\) has values outside \[0, 1\] \(from 0.5 to 1.5\)"),
    (changed(-0.01), LABELS, r"image 1 of 3 .* outside \[0, 1\]"),
    (changed(float("nan")), LABELS, r"image 1 of 3 .* outside \[0, 1\]"),
    ((IMAGES * 255).byte(), LABELS, "uint8; expected float32"),
    (IMAGES[0, 0, 0], LABELS[:2], r"shape \(2,\)"),
    (IMAGES[:, 0], LABELS, r"shape \(3, 2, 2\); expected \(images, 1, 2, 2\)"),
    (IMAGES, LABELS[:2], r"labels are int64 \(2,\); expected int64 \(3,\)"),
    (IMAGES, LABELS.float(), r"labels are float32 \(3,\)"),
    (IMAGES, LABELS - 1, "label -1 of image 0 is no class; allowed: from 0 to 2"),
    (IMAGES, LABELS + 1, "label 3 of image 2 is no class; allowed: from 0 to 2"),
])
def test_bad_images_and_labels(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_images(images, labels, shape=(1, 2, 2), classes=3)


def test_good_images() -> None:
    check_images(IMAGES, LABELS, shape=(1, 2, 2), classes=3)
    check_images(IMAGES[:0], LABELS[:0])


@pytest.mark.parametrize(("threat", "message"), [
    (Threat(epsilon=8), r"epsilon = 8 for linf is above the box.* \(1, 8, 8\) is larger than 1;"),
    (Threat(norm="l2", epsilon=8.1), "epsilon = 8.1 for l2 is above the box.* is larger than 8;")])
def test_a_budget_above_the_box(digits: Digits, threat: Threat, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PGD().run(Oracle(digits.model, 2), digits.images[:2], digits.labels[:2], threat, [1, 2])


@pytest.mark.parametrize("epsilon", [0, -0.1, float("nan"), float("inf")])
def test_a_budget_that_is_none(epsilon: float) -> None:
    with pytest.raises(ValidationError, match="epsilon"):
        Threat(epsilon=epsilon)


def test_every_attack_checks_its_arguments(digits: Digits) -> None:
    oracle, threat = Oracle(digits.model, 2), Threat(epsilon=0.1)
    with pytest.raises(DataError, match="outside"):
        PGD().run(oracle, digits.images[:2] + 2, digits.labels[:2], threat, [1, 2])
    with pytest.raises(DataError, match="1 seeds for 2 images"):
        PGD().run(oracle, digits.images[:2], digits.labels[:2], threat, [1])
    assert oracle.queries.sum() == 0
