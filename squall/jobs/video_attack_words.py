"""What the comparisons of attacks on clips come to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from squall.jobs.console import counted
from squall.platform.video_attack_card import Figure, VideoAttackCard, VideoAttackResult, VideoContrast

LEVEL = 0.05
CLAIMS_FROM = 3
"""Trainings of an attack from which on a run says something about training, and not of these attackers alone."""


def card_notes(card: VideoAttackCard) -> tuple[str, ...]:
    """What is to be known of a card that is complete but for them: each comparison, and what it does not say."""
    return tuple([*(contrast_sentence(card, one) for one in card.contrasts), *_of_seeds(card), *_of_trainings(card)])


def contrast_sentence(card: VideoAttackCard, contrast: VideoContrast) -> str:
    """Which of two attacks is better and by how much, what each changes, and what it costs when training is shared out."""
    first, second = (result_of(card, name) for name in (contrast.first, contrast.second))
    if contrast.success.mean is None or contrast.queries.mean is None:
        return f"{first.attack} and {second.attack} have no clip in common: which is better is not known."
    return (f"{verdict(contrast)}: it fools {_percent(first.success.mean)} of the clips against "
            f"{_percent(second.success.mean)} ({_points(contrast.success)}, {_p(contrast.p_success)}), with "
            f"{_number(first.queries.mean)} queries a clip against {_number(second.queries.mean)} "
            f"({_change(contrast.queries)}, {_p(contrast.p_queries)}), failures counted at the budget"
            f"{_sizes(first, second)}.{_costs(contrast, first, second)}")


def short_sentence(contrast: VideoContrast) -> str:
    """The same for the terminal: the verdict and the differences."""
    if contrast.success.mean is None or contrast.queries.mean is None:
        return f"{contrast.first} and {contrast.second} have no clip in common"
    saves = contrast.break_even_clips and _reading(contrast.queries, contrast.p_queries)
    pays = f"; training is paid for after {counted(contrast.break_even_clips, 'clip')}" if saves else ""
    return (f"{verdict(contrast)}: {_points(contrast.success)} fooled, {_p(contrast.p_success)}; {_change(contrast.queries)} "
            f"queries a clip, {_p(contrast.p_queries)}{pays}")


def verdict(contrast: VideoContrast) -> str:
    """``pair beats greedy`` where it is better in success or in queries beyond chance, and worse in neither."""
    readings = [_reading(contrast.success, contrast.p_success), -_reading(contrast.queries, contrast.p_queries)]
    better, worse = max(readings) > 0, min(readings) < 0
    first, second = contrast.first, contrast.second
    if better and worse:
        return f"{first} and {second} each are better in one thing"
    if better:
        return f"{first} beats {second}"
    if worse:
        return f"{first} does not beat {second}, it is worse"
    return f"{first} does not beat {second}, these clips do not tell them apart"


def result_of(card: VideoAttackCard, attack: str) -> VideoAttackResult:
    """The result of an attack by its name."""
    return next(one for one in card.results if one.attack == attack)


def _sizes(first: VideoAttackResult, second: VideoAttackResult) -> str:
    """Of the change, where both fool something: an attack that may change everything is quick."""
    if first.l2.mean is None or second.l2.mean is None or first.ssim.mean is None or second.ssim.mean is None:
        return ""
    return (f"; its changes have an L2 of {first.l2.mean:.2f} against {second.l2.mean:.2f} and an SSIM of "
            f"{first.ssim.mean:.3f} against {second.ssim.mean:.3f}")


def _costs(contrast: VideoContrast, first: VideoAttackResult, second: VideoAttackResult) -> str:
    """Empty where neither was trained."""
    if not first.training_queries and not second.training_queries:
        return ""
    training = f"{first.training_queries:,} queries" + f" against {second.training_queries:,}" * bool(second.training_queries)
    shared = (f" With one training ({training}) shared out over {counted(first.attacked, 'attacked clip')} that is "
              f"{_number(first.amortised_queries)} queries a clip against {_number(second.amortised_queries)}")
    if first.training_queries <= second.training_queries:
        return f"{shared}."
    if contrast.break_even_clips is None:
        return f"{shared}; no number of clips pays for its training."
    condition = "" if _reading(contrast.queries, contrast.p_queries) else "if what it saves is no chance, "
    return f"{shared}; {condition}its training is paid for after {counted(contrast.break_even_clips, 'clip')}."


def _of_seeds(card: VideoAttackCard) -> Iterator[str]:
    few = [one for one in card.results if one.kind == "learned" and 0 < len(one.seeds) < CLAIMS_FROM]
    if few:
        names = ", ".join(f"{one.attack} ({len(one.seeds)})" for one in few)
        yield (f"Fewer than {CLAIMS_FROM} trainings of {names}: the figures are of these trained attackers, and this run "
               "claims nothing about training in general.")


def _of_trainings(card: VideoAttackCard) -> Iterator[str]:
    again, cut = (sum(getattr(one, name) for one in card.trainings) for name in ("failures", "infra_errors"))
    if again or cut:
        disturbed = ", ".join(f"{one.attack} seed {one.seed}" for one in card.trainings if one.failures or one.infra_errors)
        parts = [f"{counted(again, 'iteration')} done again"] * bool(again)
        parts += [f"{counted(cut, 'attack')} ended early because the victim could not be reached"] * bool(cut)
        yield f"Training was disturbed ({disturbed}): {', '.join(parts)}; nothing was learned from these."


def _reading(figure: Figure, p_value: float | None) -> int:
    """1 and -1 where a difference is above or below 0 beyond chance, else 0."""
    if p_value is None or p_value >= LEVEL or not figure.mean:
        return 0
    return 1 if figure.mean > 0 else -1


def _percent(value: float | None) -> str:
    return "an unknown share" if value is None else f"{100 * value:.1f} %"


def _points(figure: Figure) -> str:
    bounds = "" if figure.low is None or figure.high is None else f" [{100 * figure.low:+.1f}, {100 * figure.high:+.1f}]"
    return f"{100 * (figure.mean or 0):+.1f} points{bounds}"


def _change(figure: Figure) -> str:
    bounds = "" if figure.low is None or figure.high is None else f" [{figure.low:+.1f}, {figure.high:+.1f}]"
    return f"{figure.mean or 0:+.1f}{bounds}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"


def _p(value: float | None) -> str:
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
