"""Square Attack fools by questions alone, as pyautoattack does, and asks no more than it says."""

from __future__ import annotations

import math

import pytest
import torch
from attacked_models import Counting, Digits
from pyautoattack.square import SquareAttack
from torch import nn

from squall.algorithms.attacks import square
from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import ReplayDraws
from squall.algorithms.attacks.projections import lengths
from squall.algorithms.attacks.square import Square
from squall.algorithms.attacks.squares import L2Walk, LinfWalk
from squall.platform.errors import DataError

LINF, L2 = Threat(epsilon=0.15), Threat(norm="l2", epsilon=1.0)


class Stubborn(nn.Module):
    """Keeps what it was shown and answers all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images.clone())
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_changed_images_lie_within_and_passes_are_counted(digits: Digits, threat: Threat) -> None:
    some, model = digits.first(60), Counting(digits.model)
    oracle = Oracle(model, 60)
    outcome = Square(queries=120).run(oracle, some.images, some.labels, threat, range(60))
    assert 10 < outcome.fooled.sum() < 57
    assert torch.equal(digits.model(outcome.adversarial).argmax(1) != some.labels, outcome.fooled)
    assert lengths(outcome.adversarial - some.images, threat.norm).max() <= threat.epsilon * (1 + 1e-5)
    assert outcome.adversarial.min() >= 0 and outcome.adversarial.max() <= 1
    assert outcome.by == tuple("square" if fooled else None for fooled in outcome.fooled.tolist())
    assert oracle.queries.sum() == model.forward and not oracle.gradients.any()
    assert oracle.queries.max() <= 121 and oracle.queries[outcome.fooled].float().mean() < 60


@pytest.mark.parametrize("threat", [Threat(epsilon=0.4), Threat(norm="l2", epsilon=3)], ids=str)
def test_a_wide_budget_fools_everything_and_a_narrow_one_lowers_the_margin(digits: Digits, threat: Threat) -> None:
    some = digits.first(30)
    assert Square(queries=1000).run(Oracle(digits.model, 30), some.images, some.labels, threat, range(30)).fooled.all()
    narrow = threat.model_copy(update={"epsilon": threat.epsilon / 20})
    outcome = Square(queries=100).run(Oracle(digits.model, 30), some.images, some.labels, narrow, range(30))
    before, after = (digits.model(points).softmax(1)[range(30), some.labels] for points in (some.images, outcome.adversarial))
    assert (~outcome.fooled).sum() > 25 and (after < before)[~outcome.fooled].all()


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_images_beside_it_and_sizes_of_batches_change_nothing(digits: Digits, threat: Threat, monkeypatch) -> None:
    some, attack = digits.first(24), Square(queries=80)
    whole = attack.run(Oracle(digits.model, 24), some.images, some.labels, threat, range(24))
    monkeypatch.setattr(square, "BATCH", 5)
    for rows in torch.arange(24).split(17):
        part = attack.run(Oracle(digits.model, len(rows)), some.images[rows], some.labels[rows], threat, rows.tolist())
        assert torch.equal(part.fooled, whole.fooled[rows])
        assert torch.allclose(part.adversarial, whole.adversarial[rows], atol=1e-6)


def colour_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 10)).eval()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_replay_is_pyautoattacks(digits: Digits, norm: str, colour: bool) -> None:
    threat = Threat(norm=norm, epsilon=(0.02 if colour else 0.12) if norm == "linf" else (0.2 if colour else 0.8))
    model = colour_model() if colour else digits.model
    images = torch.rand(60, 3, 10, 12, generator=torch.Generator().manual_seed(0)) if colour else digits.images[:60]
    with torch.no_grad():
        labels = model(images).argmax(1)
        peer = SquareAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], n_queries=260, eps=threat.epsilon, seed=7,
                            resc_schedule=False)
        theirs = peer.perturb(images, labels)
        their_fooled = model(theirs).argmax(1) != labels
    oracle = Oracle(model, 60, as_given=True)
    ours = Square(queries=260).perturb(oracle, images, labels, threat, ReplayDraws(7))
    assert 3 < ours.fooled.sum() < 57
    assert torch.equal(ours.fooled, their_fooled)
    assert torch.allclose(ours.adversarial[ours.fooled], theirs[their_fooled], atol=1e-5)
    assert set(oracle.queries[~ours.fooled].tolist()) == {261}


def test_a_square_that_changes_nothing_is_not_asked_about() -> None:
    model, images = Stubborn(), torch.full((6, 1, 9, 9), 0.5)
    oracle = Oracle(model, 6)
    Square(queries=400).run(oracle, images, torch.zeros(6, dtype=torch.int64), LINF, range(6))
    start, *later = model.shown
    assert all((shown != first).any() for batch in later if len(batch) == 6 for shown, first in zip(batch, start, strict=True))
    assert 150 < oracle.queries.float().mean() < 395


def test_a_square_spans_all_frames_of_a_clip() -> None:
    model, clips = Stubborn(), torch.full((1, 3, 4, 12, 12), 0.5)
    Square(queries=60).run(Oracle(model, 1), clips, torch.zeros(1, dtype=torch.int64), LINF, [3])
    start, *_, last = model.shown
    changed = (last != start)[0].flatten(0, 1)
    square = changed.any(0)
    assert changed.flatten(1).any(1).sum() > 3, "most of the 12 frames and channels change"
    assert square.any(0).sum() <= 5 and square.any(1).sum() <= 5


def test_squares_shrink_as_in_the_paper() -> None:
    for longest in (1, 100):
        shares = [value for value, steps in Square()._spans(longest) for _ in range(steps)]
        assert len(shares) == 5000
        for step, share in ((0, 0.8), (10, 0.8), (11, 0.4), (51, 0.2), (201, 0.1), (4000, 0.0125), (4001, 0.00625)):
            assert math.isclose(shares[step], share)


def test_sides() -> None:
    assert [LinfWalk.side(share, 28, 28) for share in (0.8, 0.05, 0.00625, 0.0001)] == [25, 6, 2, 1]
    assert [L2Walk.side(share, 28, 28) for share in (0.8, 0.05, 0.00625)] == [25, 7, 3]
    assert LinfWalk.side(0.8, 4, 30) == 4


def test_images_that_are_no_pictures_are_refused() -> None:
    with pytest.raises(DataError, match=r"square needs pictures .* got images of shape \(2, 5\)"):
        Square().run(Oracle(nn.Linear(5, 2), 2), torch.rand(2, 5), torch.zeros(2, dtype=torch.int64), LINF, range(2))
