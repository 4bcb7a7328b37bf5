"""Attacks on the same clips against each other: how far apart they are, and what chance explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from squall.algorithms.sign_flips import sign_flip
from squall.algorithms.statistics import holm
from squall.jobs.video_attack_figures import ClipFigures, rounded
from squall.jobs.video_attack_rows import Attempts
from squall.platform.video_attack_card import Figure, VideoAttackResult, VideoContrast

RANDOM = "random_cells"


def contrast_pairs(results: Sequence[VideoAttackResult], random: str | None) -> list[tuple[str, str]]:
    """The first learned attack against every other one, then the other learned ones against `random`, if there is one."""
    learned = [one.attack for one in results if one.kind == "learned"]
    if not learned:
        return []
    pairs = [(learned[0], one.attack) for one in results if one.attack != learned[0]]
    return pairs + [(name, random) for name in learned[1:] if random is not None]


def make_contrasts(pairs: Sequence[tuple[str, str]], results: Sequence[VideoAttackResult], attempts: Mapping[str, Attempts],
                   budget: int) -> tuple[VideoContrast, ...]:
    """The first of each pair minus the second, over the clips of which all seeds of both are known."""
    training = {one.attack: one.training_queries for one in results}
    tests = [_p_values(attempts[first], attempts[second], budget) for first, second in pairs]
    adjusted = holm([p for test in tests for p in test])
    found = []
    for place, (first, second) in enumerate(pairs):
        figures = _figures(attempts[first], attempts[second], budget)
        found.append(VideoContrast(
            first=first, second=second, **figures, p_success=adjusted[2 * place], p_queries=adjusted[2 * place + 1],
            break_even_clips=break_even(figures["queries"].mean, training[first], training[second])))
    return tuple(found)


def break_even(change: float | None, training: int, other_training: int) -> int | None:
    """Clips after which an attack that needs `change` more queries a clip than another, training included, is the cheaper one.

    None where it is never, because it saves nothing.
    """
    if change is None or change >= 0:
        return None
    return max(0, math.ceil((training - other_training) / -change))


def _figures(first: Attempts, second: Attempts, budget: int) -> dict[str, Figure]:
    both, figures = first.whole & second.whole, ClipFigures()
    for name, one, other, most in _sides(first, second, budget):
        against = other.mean(0) if len(other) else np.zeros(len(both))
        means = (one.mean(0) if len(one) else against) - against
        seeds = tuple(rounded((own - against)[both].mean()) if both.any() else None for own in one)
        figures.add_means(name, means, both, (-most, most), seeds)
    return figures.draw()


def _p_values(first: Attempts, second: Attempts, budget: int) -> tuple[float | None, float | None]:
    """Of success and of queries. Means over seeds are multiplied by what makes them whole numbers, and the test exact."""
    both = first.whole & second.whole
    if not both.any():
        return None, None
    common = math.lcm(len(first.seeds), len(second.seeds))
    found = [sign_flip((one.sum(0) * (common // len(one)) - other.sum(0) * (common // len(other)))[both])
             for _, one, other, _ in _sides(first, second, budget)]
    return found[0], found[1]


def _sides(first: Attempts, second: Attempts, budget: int) -> tuple[tuple[str, np.ndarray, np.ndarray, float], ...]:
    """(figure, what the first did, what the second did, the most that it can be); arrays (S, N)."""
    return (("success", first.values["fooled"], second.values["fooled"], 1.0),
            ("queries", first.spent(budget), second.spent(budget), float(budget)))
