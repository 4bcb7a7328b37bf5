"""Losses against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.attacks.losses import ce, cw, dlr, runners_up
from squall.platform.errors import ConfigError

LOGITS = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 4.0, 2.0, 1.0]])
LABELS, TARGETS = torch.tensor([0, 2]), torch.tensor([2, 0])


def test_margin_is_positive_where_the_label_has_lost() -> None:
    assert cw(LOGITS, LABELS).tolist() == [1 - 3, 4 - 2]
    assert cw(LOGITS, LABELS, TARGETS).tolist() == [0.5 - 3, 0 - 2]


def test_dlr_divides_the_margin_by_the_spread_of_the_largest_logits() -> None:
    assert dlr(LOGITS, LABELS).tolist() == pytest.approx([-(3 - 1) / (3 - 0.5), -(2 - 4) / (4 - 1)])
    assert dlr(LOGITS, LABELS, TARGETS).tolist() == pytest.approx(
        [-(3 - 0.5) / (3 - (0.5 - 1) / 2), -(2 - 0) / (4 - (1 + 0) / 2)])
    assert torch.allclose(dlr(100 * LOGITS + 7, LABELS), dlr(LOGITS, LABELS))


def test_cross_entropy_of_the_label_or_minus_that_of_the_target() -> None:
    expected = -LOGITS.log_softmax(1)
    assert torch.allclose(ce(LOGITS, LABELS), expected[[0, 1], LABELS])
    assert torch.allclose(ce(LOGITS, LABELS, TARGETS), -expected[[0, 1], TARGETS])


@pytest.mark.parametrize(("classes", "targets", "message"), [(2, None, "ranks 3 logits.*has 2 classes.*apgd-dlr"),
                                                             (3, TARGETS, "targeted DLR loss ranks 4 logits.*apgd-t")])
def test_too_few_classes_are_said(classes: int, targets: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dlr(LOGITS[:, :classes], LABELS.clamp(max=classes - 1), targets)


def test_runners_up_leave_the_label_out() -> None:
    assert runners_up(LOGITS, LABELS, 2).tolist() == [[1, 2], [1, 3]]
    assert runners_up(LOGITS, LABELS, 9).shape == (2, 3)
