"""REINFORCE on one-step episodes against what it is expected to be, and the supervised losses against their formulas."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.classifier_objectives import (
    ExplorationConfig,
    ObjectiveConfig,
    draw_chance,
    entropy,
    expected_weight,
    judge,
)
from squall.platform.config import load_config
from squall.platform.errors import ConfigError

LOGITS, LABEL, RATE = torch.tensor([1.0, 0.2, -0.5, 0.3]), 1, 0.1
SAMPLES = 400_000
PUBLISHED = ObjectiveConfig(kind="pg")


def gradient(config: ObjectiveConfig, count: int = SAMPLES, rate: float = RATE) -> torch.Tensor:
    """Mean gradient by the logits over many copies of one image."""
    points = LOGITS.expand(count, -1).clone().requires_grad_()
    chance = draw_chance(config, torch.Generator().manual_seed(0), count) if config.samples else None
    judge(config, points, torch.full((count,), LABEL), rate=rate, chance=chance).loss.sum().backward()
    return points.grad.mean(0)


def per_sample(**values: object) -> ObjectiveConfig:
    return ObjectiveConfig(kind="pg", exploration=ExplorationConfig(per="sample"), **values)


def test_the_expected_gradient_is_that_of_weighted_cross_entropy() -> None:
    weight = expected_weight(LOGITS[None], torch.tensor([LABEL]), RATE)
    expected = weight * (LOGITS.softmax(0) - torch.nn.functional.one_hot(torch.tensor(LABEL), 4))
    assert float(weight) == pytest.approx(0.2114, abs=5e-5)
    assert expected.tolist() == pytest.approx([0.0975, -0.1676, 0.0218, 0.0484], abs=5e-5)
    assert gradient(per_sample()).tolist() == pytest.approx(expected.tolist(), abs=2e-3)
    assert gradient(ObjectiveConfig(kind="pg_expected"), count=1).tolist() == pytest.approx(expected.tolist(), abs=1e-7)


def test_importance_weights_take_the_bias_of_exploration_out() -> None:
    unbiased = gradient(ObjectiveConfig(kind="pg_expected"), count=1, rate=0.0)
    assert gradient(per_sample(importance=True), rate=0.4).tolist() == pytest.approx(unbiased.tolist(), abs=2e-3)
    assert gradient(per_sample(), rate=0.4).tolist() != pytest.approx(unbiased.tolist(), abs=1e-2)


def test_a_baseline_leaves_the_expectation_and_takes_variance_out() -> None:
    plain, based = gradient(per_sample(), rate=0.0), gradient(per_sample(baseline="batch_mean"), rate=0.0)
    assert based.tolist() == pytest.approx(plain.tolist(), abs=2e-3)
    points = LOGITS.expand(2, -1)
    chance = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.6]])  # classes 0 and 1, of which 1 is right
    judged = judge(per_sample(baseline="batch_mean"), points, torch.tensor([1, 1]), rate=0.0, chance=chance)
    assert judged.actions.tolist() == [0, 1] and judged.rewards.tolist() == [0.0, 1.0]
    logs = LOGITS.log_softmax(0)
    assert judged.loss.tolist() == pytest.approx([0.5 * float(logs[0]), -0.5 * float(logs[1])], abs=1e-4)


def test_a_wrong_action_has_no_loss_and_no_gradient_as_published() -> None:
    points = LOGITS.expand(2, -1).clone().requires_grad_()
    chance = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.6]])
    judge(PUBLISHED, points, torch.tensor([1, 1]), rate=RATE, chance=chance).loss.sum().backward()
    assert not points.grad[0].any() and points.grad[1].all()


def test_one_draw_explores_for_a_whole_batch_or_each_image_has_its_own() -> None:
    whole = draw_chance(PUBLISHED, torch.Generator().manual_seed(3), 1000)
    own = draw_chance(per_sample(), torch.Generator().manual_seed(3), 1000)
    assert len(whole[:, 0].unique()) == 1 and len(own[:, 0].unique()) > 990
    certain = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).expand(1000, -1)
    labels = torch.zeros(1000, dtype=torch.int64)
    rewards = judge(per_sample(), certain, labels, rate=0.4, chance=own).rewards
    assert float(rewards.mean()) == pytest.approx(0.6 + 0.4 / 4, abs=0.04)
    actions = judge(per_sample(), certain, labels, rate=1.0, chance=own).actions
    assert actions.bincount(minlength=4).tolist() == pytest.approx([250] * 4, abs=50)


def test_entropy_is_in_nats_and_its_bonus_lowers_the_loss() -> None:
    assert float(entropy(torch.zeros(1, 4))) == pytest.approx(1.3863, abs=1e-4)
    chance = torch.tensor([[1.0, 0.0, 0.0]])  # a wrong action
    judged = judge(per_sample(entropy_bonus=0.5), torch.zeros(1, 4), torch.tensor([3]), chance=chance)
    assert float(judged.loss) == pytest.approx(-0.5 * 1.3863, abs=1e-4)


@pytest.mark.parametrize(("kind", "expected"), [
    ("ce", lambda p: -p[LABEL].log()),
    ("label_smoothing", lambda p: -0.9 * p[LABEL].log() - 0.1 * p.log().mean()),
    ("mae", lambda p: (p - torch.nn.functional.one_hot(torch.tensor(LABEL), 4)).abs().sum()),
])
def test_supervised_losses(kind: str, expected: object) -> None:
    judged = judge(ObjectiveConfig(kind=kind), LOGITS[None], torch.tensor([LABEL]))
    assert float(judged.loss) == pytest.approx(float(expected(LOGITS.softmax(0))), abs=1e-6)
    assert judged.rewards is None and judged.actions is None


def test_a_hybrid_begins_with_cross_entropy() -> None:
    hybrid = ObjectiveConfig(kind="pg", supervised_first=0.5)
    assert [hybrid.at(progress).kind for progress in (0.0, 0.49, 0.5, 1.0)] == ["ce", "ce", "pg", "pg"]
    assert [ExplorationConfig(rate=0.2, schedule="linear").at(progress) for progress in (0.0, 0.5)] == [0.2, 0.1]


def test_a_key_that_the_kind_does_not_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="smoothing means nothing to kind pg; it belongs to label_smoothing"):
        load_config(ObjectiveConfig, None, ["kind=pg", "smoothing=0.2"])
    with pytest.raises(ConfigError, match="baseline means nothing to kind pg_expected; it belongs to pg"):
        load_config(ObjectiveConfig, None, ["kind=pg_expected", "baseline=batch_mean"])
