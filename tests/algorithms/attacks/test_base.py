"""The oracle: what it counts, what it refuses, and how it shows pictures to a model."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Digits
from torch import nn

from squall.algorithms.attacks.base import Oracle
from squall.platform.errors import DataError

ROWS = torch.tensor([2, 0, 2])


def test_every_pass_is_counted_by_image(digits: Digits) -> None:
    oracle, images = Oracle(digits.model, 4), digits.images[:3]
    oracle.logits(images, ROWS)
    logits, losses, gradient = oracle.gradient(images, ROWS, lambda logits: logits[:, 0])
    assert oracle.queries.tolist() == [2, 0, 4, 0] and oracle.gradients.tolist() == [1, 0, 2, 0]
    assert torch.equal(losses, logits[:, 0]) and gradient.shape == images.shape
    assert not (logits.requires_grad or losses.requires_grad or gradient.requires_grad)


def test_counts_of_a_part_are_joined(digits: Digits) -> None:
    oracle = Oracle(digits.model, 5)
    part = oracle.part(torch.tensor([4, 1]))
    part.logits(digits.images[:2], torch.tensor([0, 0]))
    oracle.add(part, torch.tensor([4, 1]))
    assert oracle.queries.tolist() == [0, 0, 0, 0, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_changes_no_result(channels: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)).eval()
    images, rows = torch.rand(5, channels, 8, 8), torch.arange(5)
    layouts: list[bool] = []
    model.register_forward_pre_hook(lambda _, shown: layouts.append(shown[0].stride(1) == 1))
    plain, fast = Oracle(model, 5, as_given=True), Oracle(model, 5)
    ours, theirs = (oracle.gradient(images, rows, lambda logits: logits[:, 1]) for oracle in (fast, plain))
    assert all(torch.allclose(mine, other, atol=1e-6) for mine, other in zip(ours, theirs, strict=True))
    assert ours[2].is_contiguous()
    assert layouts == [True, False]


def test_a_model_that_needs_its_pictures_contiguous_gets_them_so() -> None:
    def model(images: torch.Tensor) -> torch.Tensor:
        return images.view(len(images), -1)[:, :4]

    images = torch.rand(5, 3, 4, 4)
    oracle = Oracle(model, 5)
    assert torch.equal(oracle.logits(images, torch.arange(5)), model(images))
    assert oracle.queries.tolist() == [1] * 5


def test_what_a_model_itself_raises_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Oracle(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), 5).logits(torch.rand(5, 3, 4, 4), torch.arange(5))


@pytest.mark.parametrize(("model", "message"), [
    (lambda images: images.flatten(1)[:, :3] / 0, "logits are not finite"),
    (lambda images: images.sum(), r"returned \(\) for 2 images; expected \(2, classes\)"),
    (lambda images: images.flatten(1)[:1], r"returned \(1, 12\) for 2 images"),
])
def test_an_output_that_is_no_logits(model: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        Oracle(model, 2).logits(torch.rand(2, 3, 2, 2), torch.arange(2))
    assert raised.value.reason == "bad_output"


def test_a_gradient_that_is_not_finite() -> None:
    with pytest.raises(DataError, match="gradient by its input is not finite"):
        Oracle(lambda images: images.flatten(1).sqrt(), 2).gradient(
            torch.zeros(2, 1, 2, 2), torch.arange(2), lambda logits: logits.sum(1))
