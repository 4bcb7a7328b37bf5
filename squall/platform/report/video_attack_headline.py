"""What the page of attacks on clips says first: the learned attackers against random moves and the best control."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from squall.platform.report.attack_subjects import entries
from squall.platform.report.evaluation_tables import SMALL_P
from squall.platform.video_attack_card import Figure, VideoAttackCard, VideoAttackResult

RANDOM = "random"

Reading = Literal["gain", "loss", "unclear"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A contrast as it is told: the first attack against the second, whichever way round the card has it."""

    second: VideoAttackResult
    queries: Figure
    """Difference; negative speaks for the first."""
    success: Figure
    p_queries: float | None
    p_success: float | None
    break_even_clips: int | None = None
    """None where the first never pays for its training, and where the card has the contrast the other way round."""

    @property
    def reading(self) -> Reading:
        """Of the queries: a gain where the first needs fewer."""
        return reading(self.queries, -1, self.p_queries)

    @property
    def success_reading(self) -> Reading:
        return reading(self.success, 1, self.p_success)


@dataclass(frozen=True, slots=True)
class Headline:
    """What is told first."""

    lead: VideoAttackResult
    """The first learned attack; without one the attack that needs the fewest queries."""
    soonest: VideoAttackResult
    """The attack that needs the fewest queries."""
    random: VideoAttackResult | None
    best: VideoAttackResult | None
    """The control that needs the fewest queries."""
    against: tuple[Compared, ...]
    """The lead against random and against the best control, as far as they were compared."""

    @property
    def paid(self) -> tuple[tuple[str, str], ...]:
        """(first, second) of contrasts by which training pays for itself beyond chance."""
        return tuple((self.lead.attack, one.second.attack) for one in self.against
                     if one.reading == "gain" and one.break_even_clips)


def headline(card: VideoAttackCard) -> Headline | None:
    """None where no attack was finished."""
    known = [result for result in card.results if result.queries.mean is not None]
    if not known:
        return None
    soonest = min(known, key=_queries)
    lead = next((result for result in known if result.kind == "learned"), soonest)
    controls = [result for result in known if result.kind == "control" and result is not lead]
    random = next((result for result in controls if is_random(card, result)), None)
    best = min((result for result in controls if result is not random), key=_queries, default=None)
    others = [result for result in (random, best) if result is not None]
    against = [one for result in others if (one := compared(card, lead, result)) is not None]
    return Headline(lead, soonest, random, best, tuple(against))


def is_random(card: VideoAttackCard, result: VideoAttackResult) -> bool:
    """Whether a control draws its moves at random, by its kind where the card says it, otherwise by its name."""
    settings = dict(entries(card.asked)).get(result.attack, {})
    return str(settings.get("control", settings.get("kind", result.attack))).startswith(RANDOM)


def compared(card: VideoAttackCard, first: VideoAttackResult, second: VideoAttackResult) -> Compared | None:
    """The contrast of two attacks; None where the card has none."""
    for one in card.contrasts:
        if (one.first, one.second) == (first.attack, second.attack):
            return Compared(second, one.queries, one.success, one.p_queries, one.p_success, one.break_even_clips)
        if (one.second, one.first) == (first.attack, second.attack):
            return Compared(second, turned(one.queries), turned(one.success), one.p_queries, one.p_success)
    return None


def turned(figure: Figure) -> Figure:
    """The difference the other way round."""
    mean, low, high = (None if value is None else -value + 0.0 for value in (figure.mean, figure.high, figure.low))
    return Figure(mean=mean, low=low, high=high, seeds=tuple(None if one is None else -one + 0.0 for one in figure.seeds))


def reading(figure: Figure, better: int, p_value: float | None) -> Reading:
    """What a difference says: nothing where its interval has 0 in it, or chance explains it.

    `better` is the sign of what speaks for the first.
    """
    if figure.low is None or figure.high is None or figure.low <= 0 <= figure.high or (p_value or 0.0) >= SMALL_P:
        return "unclear"
    return "gain" if (figure.low > 0) == (better > 0) else "loss"


def _queries(result: VideoAttackResult) -> float:
    return math.inf if result.queries.mean is None else result.queries.mean
