"""What stands in the words and tables of the page of attacks on clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squall.platform.report.attack_subjects import entries
from squall.platform.report.attack_tables import asked_attacks
from squall.platform.report.charts import nice_range, number_text
from squall.platform.report_card import Estimate
from squall.platform.video_attack_card import Figure, VideoAttackCard, VideoContrast

COUNTERS = ("begun", "answered", "lost")
PURPOSES = {"clean": "were held-out clips as they are", "probe": "were for trying every process", "training": "training",
            "attack": "attacks", "abandoned": "attacks broken off", "transfer": "clips that fooled another victim"}
"""Of the ledger: what for, as the page says it."""
MOST_TICKS = 4


def share(figure: Figure | Estimate) -> Estimate:
    """A fraction as the filters for percent take it."""
    return figure if isinstance(figure, Estimate) else Estimate(value=figure.mean, low=figure.low, high=figure.high, n=0)


def count(value: float | None) -> str:
    """A number of queries, or another amount: ``31.2``, ``1 240``; a dash where it is not defined."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"
    return text.replace(",", "\u202f").replace("-", "−")


def spread(figure: Figure, text: Callable[[float | None], str] = count) -> str:
    """The interval of such a number, ``[28.0, 34.4]``; empty without one, and where it is the number itself."""
    if figure.low is None or figure.high is None or text(figure.low) == text(figure.mean) == text(figure.high):
        return ""
    return f"[{text(figure.low)}, {text(figure.high)}]"


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of a column of intervals, which holds them all and zero."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    """(percent, text)."""

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True, slots=True)
class Forest:
    """All contrasts, on two axes."""

    groups: tuple[tuple[str, tuple[VideoContrast, ...]], ...]
    """(first attack, its contrasts), in the order of the card."""
    queries: Scale | None
    success: Scale | None
    """In points."""


def forest(contrasts: Sequence[VideoContrast]) -> Forest:
    groups = {name: tuple(one for one in contrasts if one.first == name)
              for name in dict.fromkeys(one.first for one in contrasts)}
    return Forest(tuple(groups.items()), _scale([one.queries for one in contrasts], 1.0),
                  _scale([one.success for one in contrasts], 100.0))


def _scale(figures: Sequence[Figure], unit: float) -> Scale | None:
    ends = [unit * value for figure in figures for value in (figure.low, figure.mean, figure.high) if value is not None]
    if not ends:
        return None
    low, high, ticks = nice_range([min(0.0, *ends), max(0.0, *ends), 0.0])
    scale = Scale(low, high, ())
    zero = ticks.index(0.0)
    marked = [tick for place, tick in enumerate(ticks) if (place - zero) % (1 + len(ticks) // (MOST_TICKS + 1)) == 0]
    return Scale(low, high, tuple((scale.place(tick), number_text(tick, ticks)) for tick in marked))


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """Clips by purpose: of attacks a row each, of what belongs to none a number."""

    purposes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]
    """(attack, for each purpose the clips of every seed)."""
    others: tuple[tuple[str, int], ...]


def ledger_table(ledger: Mapping[str, int], attacks: Sequence[str]) -> LedgerTable:
    """Purposes ``attack/NAME/SEED`` by attack, those of `attacks` first and in their order."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for purpose, clips in ledger.items():
        if purpose not in COUNTERS:
            what, _, name = purpose.partition("/")
            before, _, last = name.rpartition("/")
            seeds.setdefault((what, before if before and last.isdigit() else name), []).append(clips)
    purposes = [what for what in dict.fromkeys([*PURPOSES, *(what for what, _ in seeds)])
                if any(own == what and name for own, name in seeds)]
    names = sorted(dict.fromkeys(name for _, name in seeds if name),
                   key=lambda name: attacks.index(name) if name in attacks else len(attacks))
    return LedgerTable(tuple(PURPOSES.get(what, what) for what in purposes),
                       tuple((name, tuple(tuple(seeds.get((what, name), ())) for what in purposes)) for name in names),
                       tuple((PURPOSES.get(what, what), sum(own)) for (what, name), own in seeds.items() if not name))


def unaccounted(ledger: Mapping[str, int]) -> int | None:
    """Clips that were begun and are neither answered nor lost; 0 where the ledger agrees, None where it does not say."""
    return ledger["begun"] - ledger["answered"] - ledger["lost"] if set(COUNTERS) <= set(ledger) else None


def transfer_rows(card: VideoAttackCard) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """The other victims, and (attack, what each of them does with its clips)."""
    victims = list(dict.fromkeys(one.victim for one in card.transfers))
    known = {(one.attack, one.victim): one for one in card.transfers}
    return victims, [(attack, [known.get((attack, victim)) for victim in victims])
                     for attack in dict.fromkeys(one.attack for one in card.transfers)]


def asked_of(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(attack, its settings as text); what learned attacks share with all others, or with each other, stands there once."""
    attacks = dict(entries(asked))
    trained = [one["training"] for one in attacks.values() if isinstance(one.get("training"), Mapping)]
    same = {key: value for key, value in trained[0].items() if all(one.get(key) == value for one in trained)} if trained else {}
    shared = {"attack": asked.get("attack") or {}, "training": same if len(trained) > 1 else {}}
    own = {name: {key: _without(value, shared.get(key)) for key, value in settings.items()}
           for name, settings in attacks.items()}
    return asked_attacks({"attacks": own | ({"all that learn": same} if len(trained) > 1 else {})})


def _without(value: Any, shared: Any) -> Any:
    """Settings that are not the shared ones."""
    if not isinstance(value, Mapping) or not isinstance(shared, Mapping):
        return value
    return {key: own for key, own in value.items() if key not in shared or shared[key] != own}
