"""What stands in the words and tables of the page of masked video trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from squall.platform.report.video_attack_headline import Reading, reading
from squall.platform.tats_card import PARTS, TatsCard, TatsContrast, TatsPart, TatsResult

LEAD = "tats"
"""The kind of sampler that all others are controls of."""
COSTS = ("seconds", "tokens_per_second", "peak_memory_bytes")
WHERE = {"still": "over a still scene", "pan": "under a pan of the camera", "data": "in the clips of the data"}


@dataclass(frozen=True, slots=True)
class Duel:
    """An arm against a control."""

    second: str
    answers: tuple[TatsContrast | None, ...]
    """To each of the questions."""
    time: float
    memory: float
    """What the first needs over what the second does."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A TATS arm against all controls."""

    lead: TatsResult
    questions: tuple[str, ...]
    duels: tuple[Duel, ...]
    verdicts: tuple[tuple[str, Mapping[Reading, tuple[str, ...]]], ...]
    """(question, the controls by what is shown)."""


def standings(card: TatsCard) -> list[Standing]:
    """Every TATS arm against all controls, question by question."""
    return [_standing(card, lead) for lead in card.results if lead.kind == LEAD]


def _standing(card: TatsCard, lead: TatsResult) -> Standing:
    own = [one for one in card.contrasts if one.first == lead.arm]
    asked = list(dict.fromkeys((one.about, one.part) for one in own))
    known = {(one.second, one.about, one.part): one for one in own}
    others = [one for one in card.results if any(contrast.second == one.arm for contrast in own)]
    duels = [Duel(other.arm, tuple(known.get((other.arm, *what)) for what in asked), times(lead, other, "seconds"),
                  times(lead, other, "peak_memory_bytes")) for other in others]
    verdicts = tuple((question(*what), _verdicts([one for one in own if (one.about, one.part) == what])) for what in asked)
    return Standing(lead, tuple(question(*what) for what in asked), tuple(duels), verdicts)


def _verdicts(contrasts: Sequence[TatsContrast]) -> dict[Reading, tuple[str, ...]]:
    readings: tuple[Reading, ...] = ("gain", "unclear", "loss")
    return {one: names for one in readings
            if (names := tuple(contrast.second for contrast in contrasts if contrast_reading(contrast) == one))}


def contrast_reading(contrast: TatsContrast) -> Reading:
    """Whether a difference speaks for the first, for the second, or is not shown."""
    return reading(contrast.difference, contrast.better, contrast.p_value)


def question(about: str, part: str | None) -> str:
    """What a contrast is about."""
    return {"motion": f"motion {WHERE.get(part or '', '')}", "reconstruction": "reconstruction under common masks",
            "probe": "the linear probe"}[about]


def times(first: TatsResult, second: TatsResult, cost: str) -> float:
    """What the first costs over what the second does, means over seeds."""
    return fmean(getattr(first, cost)) / max(fmean(getattr(second, cost)), 1e-12)


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def parts_of(card: TatsCard) -> list[str]:
    """Parts of the held-out clips that any arm was measured on, in their order."""
    return [part for part in PARTS if any(own.part == part for one in card.results for own in one.parts)]


def part_of(result: TatsResult, part: str) -> TatsPart | None:
    """An arm on a part; None where it was not measured there."""
    return next((one for one in result.parts if one.part == part), None)


def cost_rows(card: TatsCard) -> list[dict[str, Any]]:
    """Every arm, and what it costs in percent of the one that has most."""
    means = [{name: fmean(getattr(one, name)) for name in COSTS} for one in card.results]
    most = {name: max((own[name] for own in means), default=0.0) or 1.0 for name in COSTS}
    return [{"one": one, "shares": {name: round(100 * own[name] / most[name], 1) for name in COSTS}}
            for one, own in zip(card.results, means, strict=True)]
