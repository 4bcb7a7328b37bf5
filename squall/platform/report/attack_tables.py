"""Tables of an attack's page: what stands in their rows, for one model, for several, or for the arms of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squall.platform.attack_card import Arm, ArmContrast, AttackCard, AttackResult, MaskingCheck, ModelResult
from squall.platform.report.attack_indicators import INDICATORS
from squall.platform.report.attack_subjects import (
    AUTOATTACK,
    PGD,
    TRANSFER,
    WORST,
    Subject,
    Threat,
    attack_text,
    entries,
    is_transfer,
    kinds,
    mean,
    model_subject,
    standing,
    threats,
)
from squall.platform.report.evaluation_tables import rows_of
from squall.platform.report.page import Effect, EffectTable, effect_table
from squall.platform.report_card import Estimate

CHECKS = (
    ("unbounded", "An attack without bounds fools everything", "what may become any image must become one of another class"),
    ("monotone", "Accuracy falls as the budget grows", "a larger budget holds every change of a smaller one"),
    ("black_box", "White box beats black box", "who sees the gradients should find no less than who does not"),
    ("one_step", "Many steps beat one", "the first step alone should find no more than all of them"),
    ("zero_gradients", "Gradients are not zero", "where a gradient is exactly zero there is nothing to follow"),
    ("noise", "Attacks beat noise of their length", "a direction that was searched for should do more than a random one"),
    ("worst_case", "PGD comes near the worst case", "if other attacks find far more, PGD alone says nothing"),
)
"""Name, title, and why it has to be so."""
ATTACKS = (
    ("apgd-dlr", "APGD on the difference of logits ratio, which large logits cannot flatten"),
    ("apgd-t", "APGD towards each of the likeliest wrong classes"),
    ("apgd", "PGD that chooses its step size itself (Croce and Hein 2020)"),
    ("autoattack", "APGD, FAB and Square in turn, each on the images that the ones before left (Croce and Hein 2020)"),
    ("fab", "looks for the nearest image of another class (Croce and Hein 2020)"),
    ("fgsm", "one step along the sign of the gradient (Goodfellow et al. 2015)"),
    ("noise", "random changes of the full length: a control, no attack"),
    ("pgd-1", "one step of PGD"),
    ("pgd-unlimited", "PGD that may turn an image into any other"),
    ("pgd", "steps along the gradient, each brought back into the budget (Madry et al. 2018)"),
    ("square", "random squares, without gradients (Andriushchenko et al. 2020)"),
    ("transfer", "examples made on other models, the set that does most harm"),
)
"""What an attack does, by how its name or kind begins."""

SAME_COMPUTE = 0.02


@dataclass(frozen=True, slots=True)
class Rung:
    """One subject on the axis from 0 to 100 %: what each role says at the main budget."""

    subject: Subject
    marks: tuple[tuple[str, str, Estimate], ...]
    """(role, attack, accuracy)."""
    worst: Estimate | None

    def mark(self, name: str) -> Estimate | None:
        return next((estimate for part, _, estimate in self.marks if part == name), None)

    @property
    def overstated(self) -> float | None:
        """By how many points PGD alone is above the worst case."""
        pgd = self.mark(PGD)
        if pgd is None or pgd.value is None or self.worst is None or self.worst.value is None:
            return None
        return 100 * (pgd.value - self.worst.value)

    @property
    def pgd_attack(self) -> str:
        return next((attack for part, attack, _ in self.marks if part == PGD), PGD)


def ladder(card: AttackCard, found: Sequence[Subject], threat: Threat | None) -> list[Rung]:
    """A rung for each subject, in the card's order."""
    rungs = []
    for subject in found:
        own = standing(card, subject, threat)
        marks = tuple((part, *own[part]) for part in (PGD, TRANSFER, AUTOATTACK) if part in own)
        rungs.append(Rung(subject, marks, subject.under(WORST, threat)))
    return rungs


@dataclass(frozen=True, slots=True)
class Pivot:
    """A model's attacks against its budgets."""

    model: ModelResult
    threats: tuple[Threat, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...], AttackResult | None], ...]
    """(attack, accuracy at each budget, the result at the main budget)."""


def pivot(card: AttackCard, model: ModelResult, main: Threat | None) -> Pivot:
    """Attacks in the card's order, then transfer as a whole and the worst case."""
    subject = model_subject(card, model)
    results = {one.attack: one for one in model.results if (one.norm, one.epsilon) == main}
    columns = threats([subject])
    names = [*subject.attacks(), *([WORST] if model.budgets else [])]
    return Pivot(model, tuple(columns), tuple(
        (name, tuple(subject.under(name, threat) for threat in columns), results.get(name)) for name in names))


def meanings(card: AttackCard, found: Sequence[Subject]) -> list[tuple[str, str]]:
    """(attack, what it does) of those whose name says which they are."""
    names, kind_of = dict.fromkeys(attack for subject in found for attack in subject.attacks()), kinds(card)
    texts = [(name, _meaning(name) or _meaning(kind_of.get(name, name))) for name in names]
    return [(name, text) for name, text in texts if text]


def _meaning(name: str) -> str:
    name = name.replace("_", "-")
    return next((text for start, text in ATTACKS if name == start or name.startswith(f"{start}-")), "")


@dataclass(frozen=True, slots=True)
class TransferMatrix:
    """Rows: where examples were made. Columns: to whom they were shown."""

    attack: str
    threat: Threat
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[float | None, bool], ...]], ...]
    """(source, (accuracy, whether the examples were made on the target itself) for each target)."""


def transfer_matrices(card: AttackCard, found: Sequence[Subject], main: Threat | None) -> list[TransferMatrix]:
    """A matrix for each attack and budget, that of the main budget first; arms take the mean over their pairs of models."""
    owner = {model.name: subject.name for subject in found for model in subject.models}
    keys = dict.fromkeys((one.attack, (one.norm, one.epsilon)) for one in card.transfers)
    return [_matrix(card, found, owner, attack, threat) for attack, threat in sorted(keys, key=lambda key: key[1] != main)]


def _matrix(card: AttackCard, found: Sequence[Subject], owner: Mapping[str, str], attack: str, threat: Threat
            ) -> TransferMatrix:
    pairs: dict[tuple[str, str], list[float]] = {}
    for one in card.transfers:
        if (one.attack, (one.norm, one.epsilon)) == (attack, threat) and one.source != one.target and \
                one.accuracy.value is not None:
            key = owner.get(one.source, one.source), owner.get(one.target, one.target)
            pairs.setdefault(key, []).append(one.accuracy.value)
    own = {subject.name: estimate.value for subject in found if (estimate := subject.under(attack, threat)) is not None}
    sources = [name for name in dict.fromkeys((*owner.values(), *(source for source, _ in pairs)))
               if any(source == name for source, _ in pairs)]
    targets = tuple(name for name in dict.fromkeys((*owner.values(), *(target for _, target in pairs)))
                    if any(target == name for _, target in pairs))
    rows = []
    for source in sources:
        cells = [(own.get(source), True) if source == target and source in own else
                 (mean(pairs.get((source, target), [])), False) for target in targets]
        rows.append((source, tuple(cells)))
    return TransferMatrix(attack, threat, targets, tuple(rows))


def checks_of(model: ModelResult) -> list[tuple[str, str, MaskingCheck | None]]:
    """(title, why, check) in the page's order; None where the card does not have it."""
    known = {check.name: check for check in model.checks}
    return [(title, why, known.get(name)) for name, title, why in CHECKS]


def raised(model: ModelResult) -> list[tuple[str, str, MaskingCheck | None]]:
    """Of `checks_of`, the alarms."""
    return [row for row in checks_of(model) if row[2] is not None and row[2].passed is False]


def equal_compute(arms: Sequence[Arm]) -> bool:
    """Whether no arm's runs took more passes than another's, by more than `SAME_COMPUTE`."""
    passes = [arm.passes for arm in arms]
    return not passes or max(passes) <= (1 + SAME_COMPUTE) * min(passes)


def alarms(models: Sequence[ModelResult]) -> int:
    return sum(check.passed is False for model in models for check in model.checks)


@dataclass(frozen=True, slots=True)
class ContrastRow:
    """Two arms: what is compared, and its place on the axis where it is an accuracy."""

    contrast: ArmContrast
    figure: str
    first: Estimate | None
    second: Estimate | None
    effect: Effect | None


def contrast_rows(card: AttackCard, found: Sequence[Subject], main: Threat | None
                  ) -> tuple[list[ContrastRow], EffectTable | None]:
    """The contrasts and the axis that they share."""
    arms = {subject.name: subject for subject in found}
    rows = [_contrast(one, arms, main) for one in card.contrasts]
    drawn = [row.effect for row in rows if row.effect is not None]
    return rows, effect_table("", drawn) if drawn else None


def _contrast(one: ArmContrast, arms: Mapping[str, Subject], main: Threat | None) -> ContrastRow:
    pair = [None if (arm := arms.get(name)) is None else arm.clean if one.figure == "clean" else
            arm.under(TRANSFER if is_transfer(one.figure) else one.figure, main) for name in (one.first, one.second)]
    change, effect = one.change, None
    indicator = one.figure in {field for field, _, _ in INDICATORS}
    if not indicator and change.value is not None and change.low is not None and change.high is not None:
        before, after = (math.nan if value is None or value.value is None else 100 * value.value for value in pair)
        effect = Effect(one.figure, "corrupted", change.n, before, after, 100 * change.value, 100 * change.low,
                        100 * change.high)
    return ContrastRow(one, attack_text(one.figure), pair[0], pair[1], effect)


def worst_of(rungs: Sequence[Rung]) -> tuple[Rung | None, Rung | None, Rung | None]:
    """The sturdiest and the weakest by worst case, and the one that PGD alone overstates most."""
    known = [rung for rung in rungs if rung.worst is not None and rung.worst.value is not None]
    gaps = [rung for rung in rungs if rung.overstated is not None]
    return (max(known, key=lambda rung: rung.worst.value, default=None),
            min(known, key=lambda rung: rung.worst.value, default=None),
            max(gaps, key=lambda rung: rung.overstated, default=None))


def asked_attacks(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(attack, its settings as text) of a card's ``asked``."""
    return [(name, ", ".join(f"{key} {value}" for key, (value,), _ in rows_of([settings]) if key != "name"))
            for name, settings in entries(asked)]
