"""FAB (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", algorithm 1).

Each step takes the model for linear, projects both the point and the image onto the nearest decision boundary within the box,
goes a little beyond, and leans towards the image. Once the point is adversarial it is drawn back to the image, so that the
attack creeps along the boundary to where it is nearest. It needs no step size, and the budget only says when to stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from squall.algorithms.attacks.base import Component, Oracle, Outcome, Threat
from squall.algorithms.attacks.draws import Draws
from squall.algorithms.attacks.hyperplanes import change_to
from squall.algorithms.attacks.losses import cw
from squall.algorithms.attacks.projections import lengths, project, start_on_sphere
from squall.algorithms.attacks.rounds import Attempts, Batch, aims, in_rounds

if TYPE_CHECKING:
    import torch

    from squall.algorithms.attacks.base import Norm

SHORTEST = 1e-8
"""Change that is taken for none when two are weighed against each other."""
BEYOND = 0.05
"""Part of the rest of the way that the last search goes beyond the expected boundary: on it no class has changed yet."""


class FAB(Component):
    """Towards whichever decision boundary is nearest; a step costs a gradient for each class but the label's."""

    kind: ClassVar[str] = "fab"

    steps: int = Field(100, ge=1)
    """Projections of a round."""
    restarts: int = Field(1, ge=1)
    """Rounds against an image that stands; all but the first from a random point at half of epsilon (and for each target)."""
    alpha_max: float = Field(0.1, ge=0, lt=1)
    """The most that a step leans towards the image."""
    eta: float = Field(1.05, ge=1, allow_inf_nan=False)
    """How far a step goes, as a multiple of the way to the boundary."""
    beta: float = Field(0.9, gt=0, lt=1)
    """What is left of the change when an adversarial point is drawn back to its image."""
    search_steps: int = Field(0, ge=0)
    """Steps of a last search between the nearest adversarial point and its image (the paper: 3; AutoAttack: none)."""

    @property
    def _targets(self) -> int:
        return 0

    def perturb(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, draws: Draws) -> Outcome:
        goals = [goal for goal in aims(oracle, images, labels, self._targets) for _ in range(self.restarts)]
        rounds = count()

        def play(batch: Batch, attempts: Attempts) -> None:
            if next(rounds) % self.restarts:
                half = threat.model_copy(update={"epsilon": threat.epsilon / 2})
                batch = replace(batch, points=start_on_sphere(batch.images, half, draws, batch.rows))
            for found in self._approach(oracle, _Approach.begun(batch), threat, together=draws.together):
                found.record(attempts, threat)
                if not draws.together:
                    _try_drawn_in(oracle, found, attempts, threat)

        return in_rounds(self.kind, images, labels, goals, play)

    def _approach(self, oracle: Oracle, state: _Approach, threat: Threat, *, together: bool) -> Iterator[_Approach]:
        """Images as they are done with: once within epsilon, in a replay at the end, or when the steps are spent."""
        for _ in range(self.steps):
            state = self._step(oracle, state, threat.norm)
            away = state.distance > threat.epsilon
            if not together and not away.all():
                yield state.kept(~away)
                state = state.kept(away)
                if not len(state):
                    return
        yield self._search(oracle, state, threat.norm)

    def _step(self, oracle: Oracle, state: _Approach, norm: Norm) -> _Approach:
        value, slope = _boundary(oracle, state, norm)
        state = replace(state, points=self._moved(state, value, slope, norm))
        wrong = oracle.logits(state.points, state.rows).argmax(1) != state.labels
        state = state.seen(state.points, wrong, norm)
        back = state.images + self.beta * (state.points - state.images)
        return replace(state, points=back.where(_wide(wrong, back), state.points))

    def _moved(self, state: _Approach, value: torch.Tensor, slope: torch.Tensor, norm: Norm) -> torch.Tensor:
        """Equations 8 and 9 of the paper: a step from the point and one from the image, weighed by their lengths."""
        import torch

        both = torch.stack((state.points.flatten(1), state.images.flatten(1)), dim=1)
        values = torch.stack((value, value + ((both[:, 1] - both[:, 0]) * slope).sum(1)), dim=1)
        change = change_to(both, slope, values, norm)
        point, image = lengths(change.flatten(0, 1), norm).clamp_(min=SHORTEST).view(-1, 2, 1).unbind(1)
        lean = (point / (point + image)).clamp_(max=self.alpha_max)
        from_point, from_image = both.add_(change, alpha=self.eta).unbind(1)
        return from_point.lerp(from_image, lean).clamp_(0, 1).view_as(state.points)

    def _search(self, oracle: Oracle, state: _Approach, norm: Norm) -> _Approach:
        """Between image and nearest adversarial point go to where the class would change, were the logits linear."""
        if not self.search_steps:
            return state
        near, far = state.images, state.nearest
        low = cw(oracle.logits(near, state.rows), state.labels)
        high = cw(oracle.logits(far, state.rows), state.labels)
        for _ in range(self.search_steps):
            share = (low / (low - high).clamp(max=-SHORTEST)).clamp(0, 1)
            middle = near.lerp(far, _wide(share + BEYOND * (1 - share), near))
            logits = oracle.logits(middle, state.rows)
            margin, wrong = cw(logits, state.labels), logits.argmax(1) != state.labels
            state = state.seen(middle, wrong, norm)
            wide = _wide(wrong, middle)
            far, near = middle.where(wide, far), near.where(wide, middle)
            high, low = margin.where(wrong, high), low.where(wrong, margin)
        return state


class FABT(FAB):
    """Towards the boundary to each of the likeliest other classes in turn; a step costs one gradient."""

    kind: ClassVar[str] = "fab-t"

    targets: int = Field(9, ge=1)
    """How many classes are aimed at; no more than there are."""

    @property
    def _targets(self) -> int:
        return self.targets


@dataclass(frozen=True)
class _Approach(Batch):
    """State of n images."""

    nearest: torch.Tensor
    """The nearest adversarial point so far; the image where there is none."""
    distance: torch.Tensor
    """Of `nearest` from its image, (n,); infinite where there is none."""

    @classmethod
    def begun(cls, batch: Batch) -> _Approach:
        import torch

        distance = torch.full((len(batch),), float("inf"), device=batch.images.device)
        return cls(**vars(batch), nearest=batch.images, distance=distance)

    def seen(self, points: torch.Tensor, wrong: torch.Tensor, norm: Norm) -> _Approach:
        """With `points` (n, ...), of which those `wrong` (n,) are adversarial."""
        distance = lengths(points - self.images, norm).flatten()
        nearer = wrong & (distance < self.distance)
        return replace(self, nearest=points.where(_wide(nearer, points), self.nearest),
                       distance=distance.where(nearer, self.distance))

    def record(self, attempts: Attempts, threat: Threat) -> None:
        """Note which images are fooled within the threat."""
        near = self.distance <= threat.epsilon
        attempts.points[self.rows[near]] = self.nearest[near]
        attempts.fooled[self.rows[near]] = True


def _try_drawn_in(oracle: Oracle, state: _Approach, attempts: Attempts, threat: Threat) -> None:
    """The best attempt at an image that stands is its nearest adversarial point, drawn into the threat; it may fool, too."""
    state = state.kept((state.distance > threat.epsilon) & state.distance.isfinite())
    if len(state):
        state = replace(state, points=project(state.nearest, state.images, threat))
        logits = oracle.logits(state.points, state.rows)
        attempts.record(state, logits)
        attempts.record_standing(state.rows, state.points, cw(logits, state.labels))


def _boundary(oracle: Oracle, state: _Approach, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    """Logit of the target, or of the class whose boundary is nearest, minus the label's (n,), and its slope (n, D)."""
    if state.targets is not None:
        return _difference(oracle, state, state.targets)[1:]
    classes, value, slope = _difference(oracle, state, _other(state, 0))
    for other in range(1, classes - 1):
        _, new_value, new_slope = _difference(oracle, state, _other(state, other))
        nearer = _gap(new_value, new_slope, norm) < _gap(value, slope, norm)
        value, slope = new_value.where(nearer, value), new_slope.where(nearer[:, None], slope)
    return value, slope


def _difference(oracle: Oracle, state: _Approach, targets: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    logits, value, slope = oracle.gradient(state.points, state.rows, partial(cw, labels=state.labels, targets=targets))
    return logits.shape[1], value, slope.flatten(1)


def _other(state: _Approach, position: int) -> torch.Tensor:
    """The class at `position` among those that are not the label, (n,)."""
    return position + (state.labels <= position).to(state.labels.dtype)


def _gap(value: torch.Tensor, slope: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Distance (n,) of a boundary where the box is no bound (equation 4)."""
    return value.abs() / (slope.norm(p=1 if norm == "linf" else 2, dim=1) + 1e-12)


def _wide(mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(n,) shaped so that it spreads over images (n, ...)."""
    return mask.view(-1, *[1] * (images.ndim - 1))
