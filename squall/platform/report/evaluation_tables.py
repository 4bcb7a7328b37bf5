"""Tables of an evaluation's page: what stands in their rows, for one card or for several side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squall.platform.report.evaluation_charts import plain
from squall.platform.report.losses import REASONS
from squall.platform.report.page import Effect, EffectTable, effect_table
from squall.platform.report_card import ComparisonCard, ConditionResult, Contrast, Estimate, Group, ReportCard

FIGURES = (
    ("clean", "Clean accuracy", "on the clips as they are"),
    ("mpc", "Mean under corruption (mPC)", "over severities, then over kinds"),
    ("rpc", "Relative to clean (rPC)", "mPC / clean"),
    ("worst", "Worst kind", "mean over its severities"),
    ("relative_robustness", "Relative robustness", "1 − (clean − mPC) / clean"),
    ("absolute_robustness", "Absolute robustness", "1 − (clean − mPC)"),
    ("pvr_drop", "PVRBench drop", "(clean − mean of families) / clean; lower is sturdier"),
    ("flip_rate", "Flips", "right when clean, wrong when corrupted; lower is sturdier"),
    ("consistency", "Consistency", "the answer means the same as the clean one"),
    ("top5_clean", "Clean, among the five likeliest", ""),
    ("top5_corrupted", "Corrupted, among the five likeliest", ""),
)
"""Of `Summary`: field, name, and what it is."""
LISTED = 6
"""Conditions that are named where a loss met many."""
SMALL_P = 0.05
MAIN = {"clean": "Clean accuracy", "mpc": "Mean under corruption (mPC)"}
"""Contrasts that the headline tells, and what it calls them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of every card, in fractions."""

    name: str
    meaning: str
    measured: tuple[Estimate | None, ...]
    reported: tuple[float | None, ...]

    @property
    def reported_apart(self) -> bool:
        """Whether the cards were given different ones."""
        return len(set(self.reported)) > 1


@dataclass(frozen=True, slots=True)
class LossRow:
    """Questions that were lost for one reason."""

    reason: str
    meaning: str
    message: str
    """The first one's; empty for records of the manifest."""
    count: int
    conditions: str


@dataclass(frozen=True, slots=True)
class ContrastTable:
    """One comparison on one axis. An effect is None where a contrast has no interval."""

    card: ComparisonCard
    main: tuple[tuple[Contrast, Effect | None], ...]
    conditions: tuple[tuple[Contrast, Effect | None], ...]
    axis: EffectTable | None

    @property
    def tested(self) -> int:
        return sum(contrast.p_holm is not None for contrast, _ in self.conditions)

    @property
    def differing(self) -> int:
        return sum(contrast.p_holm is not None and contrast.p_holm < SMALL_P for contrast, _ in self.conditions)


def figures(cards: Sequence[ReportCard]) -> list[Figure]:
    """The summary's figures, then those that somebody reported for something else that was measured, or was not."""
    rows = []
    for field, name, meaning in FIGURES:
        measured = tuple(getattr(card.summary, field) for card in cards)
        reported = tuple(card.reported.get(field) for card in cards)
        if any(value is not None for value in (*measured, *reported)):
            kinds = " / ".join(dict.fromkeys(plain(card.summary.worst_kind) for card in cards if card.summary.worst_kind))
            rows.append(Figure(f"{name}: {kinds}" if field == "worst" and kinds else name, meaning, measured, reported))
    known = {field for field, _, _ in FIGURES}
    others = dict.fromkeys(name for card in cards for name in card.reported if name not in known)
    return rows + [Figure(plain(name), "", tuple(_measured(card, name) for card in cards),
                          tuple(card.reported.get(name) for card in cards)) for name in others]


def _measured(card: ReportCard, name: str) -> Estimate | None:
    """What the card says of a condition, kind, family or severity of that name."""
    for group in (*card.by_kind, *card.by_family, *card.by_severity):
        if group.name == name:
            return group.corrupted
    return next((result.accuracy for result in card.conditions if result.condition == name), None)


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Groups with clean and corrupted accuracy: changes on an axis for one card, columns for several."""

    heading: str
    effects: EffectTable | None
    rows: tuple[tuple[str, tuple[Group | None, ...]], ...]


def group_table(heading: str, groups: Sequence[Sequence[Group]]) -> GroupTable | None:
    """The table of one grouping for every card; None without a group."""
    names = dict.fromkeys(group.name for own in groups for group in own)
    rows = tuple((plain(name), tuple(next((g for g in own if g.name == name), None) for own in groups)) for name in names)
    if not rows:
        return None
    single = [(name, own[0]) for name, own in rows if own[0] is not None]
    drawn = len(groups) == 1 and all(group.clean.value is not None and group.corrupted.value is not None
                                     and _has_interval(group.change) for _, group in single)
    effects = [Effect(name, "corrupted", group.change.n, 100 * group.clean.value, 100 * group.corrupted.value,
                      100 * group.change.value, 100 * group.change.low, 100 * group.change.high)
               for name, group in single] if drawn else []
    return GroupTable(heading, effect_table(heading, effects) if effects else None, rows)


def _has_interval(estimate: Estimate) -> bool:
    return estimate.value is not None and estimate.low is not None and estimate.high is not None


def condition_rows(cards: Sequence[ReportCard]) -> list[tuple[ConditionResult, tuple[ConditionResult | None, ...]]]:
    """Every condition with its result on each card."""
    known = [{result.condition: result for result in card.conditions} for card in cards]
    names = dict.fromkeys(name for results in known for name in results)
    rows = [(name, tuple(results.get(name) for results in known)) for name in names]
    return [(next(result for result in results if result is not None), results) for _, results in rows]


def comparison_table(card: ComparisonCard) -> ContrastTable:
    """The contrasts with their places on one axis."""
    rows = [(contrast, _contrast_effect(contrast)) for contrast in card.contrasts]
    drawn = [effect for _, effect in rows if effect is not None]
    return ContrastTable(card, tuple(row for row in rows if row[0].name in MAIN),
                         tuple(row for row in rows if row[0].name not in MAIN), effect_table("", drawn) if drawn else None)


def _contrast_effect(contrast: Contrast) -> Effect | None:
    change = contrast.change
    return Effect(plain(contrast.name), "corrupted", change.n, 100 * contrast.first, 100 * contrast.second, 100 * change.value,
                  100 * change.low, 100 * change.high) if _has_interval(change) else None


def losses(card: ReportCard) -> list[LossRow]:
    """What was lost by reason, most first, then the records that could not be read."""
    rows = []
    for reason, count in Counter(loss.reason for loss in card.lost).most_common():
        own = [loss for loss in card.lost if loss.reason == reason]
        conditions = Counter(loss.condition for loss in own).most_common()
        named = ", ".join(f"{plain(name)} ({times})" for name, times in conditions[:LISTED])
        more = f" and {len(conditions) - LISTED} more" if len(conditions) > LISTED else ""
        message = f"{own[0].sample_id}: {own[0].message}"
        rows.append(LossRow(plain(reason), REASONS.get(reason, ""), message, count, named + more))
    return rows + [LossRow(plain(reason), REASONS.get(reason, ""), "", count, "records of the manifest that were left out")
                   for reason, count in (card.data.get("rejected") or {}).items()]


def asked_rows(cards: Sequence[ReportCard]) -> list[tuple[str, tuple[str, ...], bool]]:
    """(key, value for each card, whether they differ): the model, the data, and how it was asked."""
    return [row for part in ("model", "data", "asked")
            for row in rows_of([{part: getattr(card, part)} for card in cards])]


def rows_of(values: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...], bool]]:
    """Nested values with dotted keys, side by side."""
    flat = [dict(_flatten(value)) for value in values]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(plain(key), tuple(one.get(key, "–") for one in flat)) for key in keys]
    return [(key, texts, len(set(texts)) > 1) for key, texts in rows]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{key} ")
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows
