"""FAB finds exact distances of linear models, what pyautoattack finds, and spends what it says."""

from __future__ import annotations

import pytest
import torch
from attacked_models import Counting, Digits, l2_worst_margins, linear_model, linf_worst_margins
from pyautoattack.fab_pt import FABAttack_PT

from squall.algorithms.attacks.base import Oracle, Threat
from squall.algorithms.attacks.draws import ReplayDraws
from squall.algorithms.attacks.fab import FAB, FABT
from squall.algorithms.attacks.projections import lengths

LINF, L2 = Threat(epsilon=0.12), Threat(norm="l2", epsilon=0.6)


def exact_distances(model, images: torch.Tensor, labels: torch.Tensor, norm: str) -> torch.Tensor:
    """Size (n,) of the smallest change that gives another class, by bisection over the closed form of the worst margin."""
    worst = linf_worst_margins if norm == "linf" else l2_worst_margins
    low, high = torch.zeros(len(images)), torch.full((len(images),), 2.0)
    for _ in range(40):
        middle = (low + high) / 2
        margins = torch.cat([worst(model, images[i:i + 1], labels[i:i + 1], float(middle[i])) for i in range(len(images))])
        crossed = margins.scatter(1, labels[:, None], float("-inf")).amax(1) > 0
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    return high


def linear_images(norm: str) -> torch.Tensor:
    images = torch.rand(40, 1, 1, 12, generator=torch.Generator().manual_seed(3))
    return images if norm == "linf" else 0.35 + 0.3 * images


@pytest.mark.parametrize("attack", [FAB(), FABT()], ids=str)
@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_nearest_boundary_of_a_linear_model_is_found(attack: FAB, classes: int, norm: str) -> None:
    model, images = linear_model(classes, seed=1), linear_images(norm)
    labels = model(images).argmax(1)
    exact = exact_distances(model, images, labels, norm)
    threat = Threat(norm=norm, epsilon=float(exact.median()))
    outcome = attack.run(Oracle(model, 40), images, labels, threat, range(40))
    certain = (exact / threat.epsilon - 1).abs() > 0.01
    assert certain.sum() > 35
    assert torch.equal(outcome.fooled[certain], (exact <= threat.epsilon)[certain])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_last_search_closes_in_on_the_boundary(norm: str) -> None:
    model, images = linear_model(2, seed=1), linear_images(norm)
    labels = model(images).argmax(1)
    exact = exact_distances(model, images, labels, norm)
    excess = []
    for search_steps in (0, 3):
        oracle, attack = Oracle(model, 40), FAB(steps=1, search_steps=search_steps)
        outcome = attack.perturb(oracle, images, labels, Threat(norm=norm, epsilon=1.0), ReplayDraws(0))
        assert outcome.fooled.all()
        excess.append(lengths(outcome.adversarial - images, norm).flatten() / exact - 1)
    assert 0.04 < excess[0].median() < 0.06, "one step goes eta times as far as the boundary"
    assert -1e-5 < excess[1].min() and excess[1].median() < (1e-3 if norm == "l2" else 0.01) and excess[1].max() < 0.03
    assert set(oracle.queries.tolist()) == {1 + 1 + 2 + 3} and set(oracle.gradients.tolist()) == {1}


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("attack", [FAB(steps=8), FABT(steps=20, targets=3)], ids=str)
def test_changed_images_lie_within_and_passes_are_counted(digits: Digits, attack: FAB, threat: Threat) -> None:
    some, model = digits.first(60), Counting(digits.model)
    oracle = Oracle(model, 60)
    outcome = attack.run(oracle, some.images, some.labels, threat, range(60))
    assert 3 < outcome.fooled.sum() < 57
    assert torch.equal(digits.model(outcome.adversarial).argmax(1) != some.labels, outcome.fooled)
    assert lengths(outcome.adversarial - some.images, threat.norm).max() <= threat.epsilon * (1 + 1e-5)
    assert outcome.adversarial.min() >= 0 and outcome.adversarial.max() <= 1
    assert outcome.by == tuple(attack.kind if fooled else None for fooled in outcome.fooled.tolist())
    assert (oracle.queries.sum(), oracle.gradients.sum()) == (model.forward, model.backward)
    full = 1 + (2 * 20 + 1) * 3 if attack.kind == "fab-t" else 8 * (9 + 1) + 1
    assert set(oracle.queries[~outcome.fooled].tolist()) == {full}
    assert oracle.queries[outcome.fooled].float().mean() < full * 0.8


def test_an_image_that_stands_is_left_near_its_boundary(digits: Digits) -> None:
    some, threat = digits.first(40), Threat(epsilon=0.05)
    outcome = FABT(steps=30, targets=3).run(Oracle(digits.model, 40), some.images, some.labels, threat, range(40))
    stands = ~outcome.fooled
    size = lengths(outcome.adversarial - some.images, "linf").flatten()
    assert stands.sum() > 20 and torch.allclose(size[stands], torch.tensor(0.05), atol=1e-6)
    before, after = (digits.model(points).softmax(1)[range(40), some.labels] for points in (some.images, outcome.adversarial))
    assert (after < before)[stands].all()


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_images_beside_it_change_nothing(digits: Digits, threat: Threat) -> None:
    some, attack = digits.first(24), FABT(steps=15, targets=2, restarts=2)
    whole = attack.run(Oracle(digits.model, 24), some.images, some.labels, threat, range(24))
    for rows in torch.arange(24).split(7):
        part = attack.run(Oracle(digits.model, len(rows)), some.images[rows], some.labels[rows], threat, rows.tolist())
        assert torch.equal(part.fooled, whole.fooled[rows])
        assert torch.allclose(part.adversarial, whole.adversarial[rows], atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [0, 9])
def test_a_replay_is_pyautoattacks(digits: Digits, targets: int, norm: str) -> None:
    some, threat = digits.first(60), LINF if norm == "linf" else L2
    steps, restarts = (15, 1) if targets else (10, 2)
    attack = FABT(steps=steps, restarts=restarts) if targets else FAB(steps=steps, restarts=restarts)
    peer = FABAttack_PT(digits.model, norm={"linf": "Linf", "l2": "L2"}[norm], n_restarts=restarts, n_iter=steps,
                        eps=threat.epsilon, seed=7, targeted=targets > 0)
    theirs = peer.perturb(some.images, some.labels)
    with torch.no_grad():
        their_fooled = digits.model(theirs).argmax(1) != some.labels
    oracle = Oracle(digits.model, 60, as_given=True)
    ours = attack.perturb(oracle, some.images, some.labels, threat, ReplayDraws(7))
    assert 3 < ours.fooled.sum() < 57
    assert torch.equal(ours.fooled, their_fooled)
    assert torch.allclose(ours.adversarial[ours.fooled], theirs[their_fooled], atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_restart_begins_at_half_of_epsilon_from_the_image(norm: str) -> None:
    shown: list[torch.Tensor] = []

    def model(images: torch.Tensor) -> torch.Tensor:
        shown.append(images.detach())
        return torch.stack((images.flatten(1).sum(1) + 100, images.flatten(1).sum(1) * 0), dim=1)

    images, threat = torch.full((3, 1, 4, 4), 0.5), Threat(norm=norm, epsilon=0.2)
    FABT(steps=1, restarts=3).run(Oracle(model, 3), images, torch.zeros(3, dtype=torch.int64), threat, range(3))
    starts = [points for points in shown if torch.allclose(lengths(points - images, norm), torch.tensor(0.1))]
    assert len(starts) == 2 and (starts[0] != starts[1]).any()


def test_a_model_without_gradient_leaves_its_images_standing() -> None:
    class Steps(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([3.0, 1.0, 2.0]).expand(len(images), 3) + 0 * images.flatten(1).sum(1, keepdim=True)

    images, labels = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
    outcome = FABT(steps=5, search_steps=2).run(Oracle(Steps(), 5), images, labels, LINF, range(5))
    assert not outcome.fooled.any() and torch.equal(outcome.adversarial, images)
