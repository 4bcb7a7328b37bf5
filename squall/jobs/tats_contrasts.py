"""TATS against every control on the same clips: how far apart they are, and what chance explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from squall.algorithms.sign_flips import sign_flip
from squall.algorithms.statistics import holm
from squall.jobs.tats_rows import HeldRows
from squall.jobs.video_attack_figures import ClipFigures, rounded
from squall.platform.report.tats_tables import LEAD
from squall.platform.tats_card import PARTS, TatsContrast, TatsResult
from squall.platform.video_attack_card import Figure


@dataclass(frozen=True)
class _Question:
    first: str
    second: str
    about: Literal["motion", "reconstruction", "probe"]
    part: str | None

    @property
    def column(self) -> str:
        return {"motion": "sampled_motion", "reconstruction": "loss_random", "probe": "probe_correct"}[self.about]


def make_contrasts(results: Sequence[TatsResult], held: HeldRows, signs: int) -> tuple[TatsContrast, ...]:
    """Every arm of kind `tats` minus every other kind, over the clips of which all seeds of both are known.

    Motion is compared part by part, and only where both draw visible tokens or both masked ones. What no clip of both tells
    is left out.

    Args:
        signs: drawn for each sign-flip test.
    """
    made = []
    for question in _questions(results):
        one, other = held.arms[question.first], held.arms[question.second]
        both = held.within(question.part) & one.known(question.column) & other.known(question.column)
        if both.any():
            made.append((question, *_compare(one.values[question.column], other.means(question.column), both, signs)))
    adjusted = holm([p for _, _, p in made])
    return tuple(TatsContrast(first=one.first, second=one.second, about=one.about, part=one.part, difference=difference,
                              p_value=p) for (one, difference, _), p in zip(made, adjusted, strict=True))


def _questions(results: Sequence[TatsResult]) -> Iterator[_Question]:
    for first in (one for one in results if one.kind == LEAD):
        for second in (one for one in results if one.kind != LEAD):
            if first.chooses == second.chooses:
                yield from (_Question(first.arm, second.arm, "motion", part) for part in PARTS)
            yield _Question(first.arm, second.arm, "reconstruction", None)
            yield _Question(first.arm, second.arm, "probe", None)


def _compare(first: np.ndarray, second: np.ndarray, both: np.ndarray, signs: int) -> tuple[Figure, float]:
    """The difference and its p-value before correction, of values (S, N) and means over seeds (N,)."""
    own = np.where(both, first, 0.0)
    means = np.where(both, own.mean(0) - second, 0.0)
    most = max(1.0, float(np.abs(means).max()))
    figures = ClipFigures()
    figures.add_means("difference", means, both, (-most, most), tuple(rounded((seed - second)[both].mean()) for seed in own))
    return figures.draw()["difference"], sign_flip(means[both], signs)
