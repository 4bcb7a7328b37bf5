"""Reasons not to trust the figures of attacks on clips, each a sentence that says what was found and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from squall.jobs.video_attack_rows import Attempts
from squall.platform.report_card import Estimate
from squall.platform.video_attack_card import VideoAttackCard

FEWEST_CLIPS = 20
"""With so many an interval of a share reaches up to 22 points to either side."""
LEAST_ACCURACY = 0.9
"""A victim that errs more often is close to its border on many clips, and any change fools it."""
UNTOLD_SHARE = 0.05
"""A run that is interrupted begins some attacks again; more than that is an error in the counting."""
FIRST_ATTEMPT = 2
"""Queries of an attack whose first changed clip fools: that one and the clean clip."""


def card_doubts(card: VideoAttackCard, attempts: Mapping[str, Attempts], budget: int) -> tuple[str, ...]:
    """What speaks against the figures of a card that is complete but for them."""
    return tuple([*_of_victim(card), *_of_sample(attempts), *_of_losses(card, attempts), *_of_ledger(card, attempts),
                  *_of_budget(attempts, budget), *_of_difficulty(attempts)])


def _of_victim(card: VideoAttackCard) -> Iterator[str]:
    accuracy = Estimate.model_validate(card.victim["accuracy"])
    if accuracy.value is None:
        yield "How often the victim is right about the held-out clips is not known."
    elif accuracy.value < LEAST_ACCURACY:
        yield (f"The victim is right about {accuracy.value:.1%} of the held-out clips, fewer than {LEAST_ACCURACY:.0%}: a "
               "model that errs on its own is easily fooled, and attacks say less about it.")


def _of_sample(attempts: Mapping[str, Attempts]) -> Iterator[str]:
    clips = max((own.known.shape[1] for own in attempts.values()), default=0)
    if clips < FEWEST_CLIPS:
        yield f"Only {clips} clips were attacked: below {FEWEST_CLIPS} intervals are wide, and few attacks can be told apart."


def _of_losses(card: VideoAttackCard, attempts: Mapping[str, Attempts]) -> Iterator[str]:
    asked = set(card.asked.get("seeds", ()))
    for name, own in attempts.items():
        clips, whole = own.known.shape[1], int(own.whole.sum())
        if not own.seeds:
            yield f"{name} has no figures: not one of its attacks came to its end."
        elif whole < clips:
            yield (f"Of {name} the attacks on {clips - whole} of {clips} clips are lost, in one seed or more: its figures are "
                   "over the others, and those of other attacks over more.")
        if own.seeds and (missing := sorted(asked - set(own.seeds))):
            yield f"{name} has nothing of seed {', '.join(map(str, missing))}: its figures are over the other seeds."


def _of_ledger(card: VideoAttackCard, attempts: Mapping[str, Attempts]) -> Iterator[str]:
    ledger = card.ledger
    if not ledger:
        yield "There is no ledger of what the victim was asked: queries are what the attacks themselves counted."
        return
    begun, told = ledger.get("begun", 0), ledger.get("answered", 0) + ledger.get("lost", 0)
    if begun != told:
        yield (f"The victim's own counters say {begun:,} clips, the ledger {told:,}: some queries are counted twice or not at "
               "all.")
    counts = query_counts(card, attempts)
    for purpose, (rows, entered) in counts.items():
        if rows > entered:
            yield f"The rows hold {rows:,} queries of {purpose}, the ledger {entered:,}: some are counted that nobody asked."
    rows, entered = (sum(count[place] for count in counts.values()) for place in (0, 1))
    if entered - rows > UNTOLD_SHARE * rows:
        yield (f"The ledger holds {entered:,} queries of attacks, the rows {rows:,}: attacks asked more than they say, or many "
               "were broken off.")


def broken_off(card: VideoAttackCard, attempts: Mapping[str, Attempts]) -> Iterator[str]:
    """What attempts cost that did not come to their end; it is no doubt, unless it is much."""
    more = sum(max(0, entered - rows) for rows, entered in query_counts(card, attempts).values())
    if more:
        yield (f"The ledger holds {more:,} queries more than the rows: of attacks that were broken off, and begun again or "
               "given up. No figure counts them.")


def query_counts(card: VideoAttackCard, attempts: Mapping[str, Attempts]) -> dict[str, tuple[int, int]]:
    """Queries in the rows and in the ledger, by purpose, those of attacks that were broken off among the ledger's."""
    counts = {}
    for name, own in attempts.items():
        for seed, queries in zip(own.seeds, own.values["queries"] + own.values["removal_queries"], strict=True):
            asked = (card.ledger.get(f"{what}/{name}/{seed}", 0) for what in ("attack", "abandoned"))
            counts[f"attack/{name}/{seed}"] = int(queries.sum()), sum(asked)
    return counts


def _of_budget(attempts: Mapping[str, Attempts], budget: int) -> Iterator[str]:
    for name, own in attempts.items():
        most = int((own.values["queries"] + own.values["removal_queries"]).max(initial=0))
        if most > budget:
            yield f"{name} spent up to {most:,} queries on a clip, more than the budget of {budget:,}: it is compared unfairly."


def _of_difficulty(attempts: Mapping[str, Attempts]) -> Iterator[str]:
    known = [own for own in attempts.values() if own.known.any()]
    at_once = [own.fooled & (own.values["queries"] <= FIRST_ATTEMPT) for own in known]
    if known and all(fell[own.known].all() for fell, own in zip(at_once, known, strict=True)):
        yield ("Every attack fools the victim on every clip at its first attempt: the distortion is too strong to tell attacks "
               "apart. Lower severity, or use smaller cells.")
    elif known and not any(own.fooled.any() for own in known):
        yield ("No attack fools the victim on any clip: the budget or the distortion is too small to tell attacks apart. Raise "
               "max_queries or severity.")
