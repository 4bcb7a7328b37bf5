"""PGD against exact worst cases, its budget, and what it spends."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Counting, Digits, l2_worst_margins, linear_model, linf_worst_margins

from squall.algorithms.attacks.apgd import APGDCE, APGDDLR, APGDT
from squall.algorithms.attacks.base import Attack, Oracle, Threat
from squall.algorithms.attacks.losses import cw
from squall.algorithms.attacks.noise import Noise
from squall.algorithms.attacks.pgd import PGD, pgd_path
from squall.algorithms.attacks.projections import lengths

LINF, L2 = Threat(epsilon=0.12), Threat(norm="l2", epsilon=0.6)
GRADIENT_ATTACKS = [PGD(steps=10), PGD(loss="cw", steps=10), PGD(loss="dlr", targets=2, steps=5, restarts=2), APGDCE(steps=15),
                    APGDDLR(steps=15), APGDT(steps=10, targets=3)]
ATTACKS = [*GRADIENT_ATTACKS, PGD(steps=1, random_start=False), Noise(draws=3)]


def linear_images(count: int = 60, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("attack", [PGD(steps=40, step_size=0.25, loss=loss) for loss in ("ce", "cw")]
                         + [APGDCE(steps=40)], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_linear_classes_fall_exactly_where_the_worst_case_says(attack: Attack, norm: str) -> None:
    model = linear_model(2)
    threat = Threat(norm=norm, epsilon=0.1 if norm == "linf" else 0.3)
    images = linear_images() if norm == "linf" else linear_images(low=0.35, high=0.65)
    labels = model(images).argmax(1)
    exact = linf_worst_margins if norm == "linf" else l2_worst_margins
    worst = exact(model, images, labels, threat.epsilon)[torch.arange(60), 1 - labels]
    outcome = attack.run(Oracle(model, 60), images, labels, threat, range(60))
    assert 5 < outcome.fooled.sum() < 55
    assert torch.equal(outcome.fooled, worst > 0)
    reached = cw(model(outcome.adversarial), labels)
    assert torch.allclose(reached[~outcome.fooled], worst[~outcome.fooled], atol=5e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_aiming_at_every_class_finds_the_worst_of_many_linear_ones(norm: str) -> None:
    model = linear_model(6, seed=1)
    threat = Threat(norm=norm, epsilon=0.08 if norm == "linf" else 0.1)
    images = linear_images() if norm == "linf" else linear_images(low=0.35, high=0.65)
    labels = model(images).argmax(1)
    exact = linf_worst_margins if norm == "linf" else l2_worst_margins
    margins = exact(model, images, labels, threat.epsilon)
    worst = margins.scatter(1, labels[:, None], float("-inf")).amax(1)
    for attack in (PGD(steps=40, step_size=0.25, loss="cw", targets=5), APGDT(steps=40)):
        outcome = attack.run(Oracle(model, 60), images, labels, threat, range(60))
        assert 5 < outcome.fooled.sum() < 55
        assert torch.equal(outcome.fooled, worst > 0)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.parametrize("threat", [LINF, L2, Threat(epsilon=1.0), Threat(norm="l2", epsilon=8)], ids=str)
def test_changed_images_lie_within_and_fool_as_said(digits: Digits, attack: Attack, threat: Threat) -> None:
    some = digits.first(30)
    outcome = attack.run(Oracle(digits.model, 30), some.images, some.labels, threat, range(30))
    assert outcome.adversarial.min() >= 0 and outcome.adversarial.max() <= 1
    assert (lengths(outcome.adversarial - some.images, threat.norm) <= threat.epsilon * (1 + 1e-5)).all()
    assert torch.equal(digits.model(outcome.adversarial).argmax(1) != some.labels, outcome.fooled)
    assert outcome.by == tuple(attack.kind if fooled else None for fooled in outcome.fooled)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_counts_are_those_of_the_model(digits: Digits, attack: Attack) -> None:
    some, model = digits.first(40), Counting(digits.model)
    oracle = Oracle(model, 40)
    outcome = attack.run(oracle, some.images, some.labels, LINF, range(40))
    assert oracle.queries.sum() == model.forward and oracle.gradients.sum() == model.backward
    assert oracle.queries[~outcome.fooled].unique().numel() == 1
    assert (oracle.queries[outcome.fooled] <= oracle.queries[~outcome.fooled].max()).all()


def test_a_fallen_image_is_asked_about_no_more(digits: Digits) -> None:
    oracle = Oracle(digits.model, 60)
    outcome = PGD(steps=20).run(oracle, digits.images[:60], digits.labels[:60], LINF, range(60))
    assert set(oracle.queries[~outcome.fooled].tolist()) == {21} and set(oracle.gradients[~outcome.fooled].tolist()) == {20}
    assert torch.equal(oracle.queries[outcome.fooled], oracle.gradients[outcome.fooled])
    assert oracle.queries[outcome.fooled].float().mean() < 15


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_the_images_beside_it_do_not_matter(digits: Digits, attack: Attack, threat: Threat) -> None:
    images, labels = digits.images[:40], digits.labels[:40]
    together, some = Oracle(digits.model, 40), torch.tensor([37, 5, 11, 20])
    outcome = attack.run(together, images, labels, threat, range(100, 140))
    alone = Oracle(digits.model, 4)
    again = attack.run(alone, images[some], labels[some], threat, [137, 105, 111, 120])
    assert torch.equal(again.fooled, outcome.fooled[some])
    assert torch.equal(alone.queries, together.queries[some])
    assert torch.allclose(again.adversarial, outcome.adversarial[some], atol=1e-5)


def test_one_step_is_the_fast_gradient_sign_method(digits: Digits) -> None:
    points = digits.images[:20].clone().requires_grad_()
    torch.nn.functional.cross_entropy(digits.model(points), digits.labels[:20], reduction="sum").backward()
    expected = (points.detach() + 0.05 * points.grad.sign()).clamp(0, 1)
    outcome = PGD(steps=1, random_start=False).run(
        Oracle(digits.model, 20), points.detach(), digits.labels[:20], Threat(epsilon=0.05), range(20))
    assert torch.equal(outcome.adversarial, expected)


def test_unlimited_pgd_fools_every_image(digits: Digits) -> None:
    attack, count = PGD(steps=60, step_size=0.05), len(digits.images)
    for threat in (Threat(epsilon=1.0), Threat(norm="l2", epsilon=8.0)):
        oracle = Oracle(digits.model, count)
        assert attack.run(oracle, digits.images, digits.labels, threat, range(count)).fooled.all()


def test_saturated_logits_need_a_temperature_or_another_loss(digits: Digits) -> None:
    """Logits times 1,000: cross-entropy's gradient is 0 in float32, and PGD on it stays where it starts."""
    def saturated(images: torch.Tensor) -> torch.Tensor:
        return 1000 * digits.model(images)

    def fooled(**settings: object) -> int:
        outcome = PGD(steps=10, **settings).run(Oracle(saturated, 60), digits.images[:60], digits.labels[:60], LINF, range(60))
        return int(outcome.fooled.sum())

    honest = PGD(steps=10).run(Oracle(digits.model, 60), digits.images[:60], digits.labels[:60], LINF, range(60))
    assert fooled() < 0.7 * honest.fooled.sum()
    assert fooled(temperature=1000.0) == honest.fooled.sum()
    assert fooled(loss="cw") >= 0.9 * honest.fooled.sum()


def test_the_path_goes_on_past_the_fall(digits: Digits) -> None:
    attack, oracle = PGD(steps=6), Oracle(digits.model, 50)
    steps = list(pgd_path(attack, oracle, digits.images[:50], digits.labels[:50], LINF, range(50)))
    outcome = attack.run(Oracle(digits.model, 50), digits.images[:50], digits.labels[:50], LINF, range(50))
    assert oracle.gradients.tolist() == [6] * 50 and oracle.queries.tolist() == [6] * 50
    for step in steps:
        assert step.points.shape == step.gradient.shape == digits.images[:50].shape and step.logits.shape == (50, 10)
    fell = torch.stack([step.logits.argmax(1) != digits.labels[:50] for step in steps])
    first = fell.float().argmax(0)[outcome.fooled & fell.any(0)]
    rows = (outcome.fooled & fell.any(0)).nonzero()[:, 0]
    for row, number in zip(rows.tolist(), first.tolist(), strict=True):
        assert torch.allclose(steps[number].points[row], outcome.adversarial[row], atol=1e-5)


def test_a_real_network_on_real_photos_keeps_none_of_its_labels() -> None:
    """The CIFAR-10 ResNet-18 that ships with pyautoattack, on 32x32 crops of two photos, at 8/255."""
    from pathlib import Path

    import pyautoattack
    from pyautoattack.examples.resnet import ResNet18
    from sklearn.datasets import load_sample_images

    model = ResNet18()
    weights = Path(pyautoattack.__file__).parent / "examples" / "model_test.pt"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval()
    photos = [torch.tensor(photo).permute(2, 0, 1).float() / 255 for photo in load_sample_images().images]
    crops = torch.stack([photo[:, top:top + 32, left:left + 32] for photo in photos
                         for top, left in ((40, 60), (120, 300), (200, 500), (300, 200))])
    oracle = Oracle(model, len(crops))
    labels = oracle.logits(crops, torch.arange(len(crops))).argmax(1)
    outcome = PGD(steps=20).run(oracle, crops, labels, Threat(epsilon=8 / 255), range(len(crops)))
    assert outcome.fooled.all()
    assert (model(outcome.adversarial).argmax(1) != labels).all()
    assert (outcome.adversarial - crops).abs().max() <= 8 / 255 + 1e-6
