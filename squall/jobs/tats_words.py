"""What trainings of masked autoencoders come to, in sentences that say plainly where TATS does not beat its controls."""

from __future__ import annotations

from collections.abc import Iterator

from squall.platform.report.tats_export import figure_text, p_words, times_text
from squall.platform.report.tats_tables import LEAD, WHERE, contrast_reading, listed, question, times
from squall.platform.report.video_attack_headline import reading
from squall.platform.tats_card import TatsCard, TatsContrast, TatsPart, TatsResult

CLAIMS_FROM = 3
"""Trainings of an arm from which on a run says something about training, and not about these models alone."""


def card_says(card: TatsCard) -> tuple[str, ...]:
    """What a card that is complete but for them shows: of every TATS arm its motion, then each control."""
    leads = [one for one in card.results if one.kind == LEAD]
    return tuple(sentence for lead in leads for sentence in (*_of_motion(lead), *_of_controls(card, lead)))


def card_notes(card: TatsCard) -> tuple[str, ...]:
    """What is to be known of the figures: what they do not say."""
    return tuple([*_of_seeds(card), *_of_masked_sets(card), *_of_leads(card)])


def _of_motion(lead: TatsResult) -> Iterator[str]:
    for part in lead.parts:
        if part.gain.mean is None:
            continue
        found = reading(part.gain, 1, part.p_gain)
        says = {"gain": "finds true motion", "unclear": "is not shown to find true motion", "loss": "avoids true motion"}[found]
        chance = f"{figure_text(part.chance, 100, bounds=False)} %; {p_words(part.p_gain)}"
        yield (f"{lead.arm} {says} {WHERE[part.part]}: {figure_text(part.sampled_motion, 100)} % of the {lead.chooses} tokens "
               f"that it draws are on it, {times_text(part.times_chance)} times chance ({chance}){_of_looking(part)}.")


def _of_looking(part: TatsPart) -> str:
    """Whether what it finds is more than a bias for places where motion is often."""
    if reading(part.gain, 1, part.p_gain) != "gain" or part.looks.mean is None:
        return ""
    share = f"{figure_text(part.blind, 100, bounds=False)} %; {p_words(part.p_looks)}"
    blind = f"what it draws for other clips would find ({share})"
    if reading(part.looks, 1, part.p_looks) == "gain":
        return f". That is more than {blind}: it looks at clips"
    return f". That is not shown to be more than {blind}: it may know where motion is often, not where it is"


def _of_controls(card: TatsCard, lead: TatsResult) -> Iterator[str]:
    """What TATS is better in than whom, question by question, and what it costs."""
    own = [one for one in card.contrasts if one.first == lead.arm]
    for about, part in dict.fromkeys((one.about, one.part) for one in own):
        answers = [one for one in own if (one.about, one.part) == (about, part)]
        words = {"gain": "beats", "unclear": "does not beat, nor is it shown to be worse than,", "loss": "is worse than"}
        told = [f"{says} {listed([_against(one) for one in found])}" for verdict, says in words.items()
                if (found := [one for one in answers if contrast_reading(one) == verdict])]
        yield f"In {question(about, part)} {lead.arm} {'; it '.join(told)}."
    if others := dict.fromkeys(one.second for one in own):
        costs = [_cost(lead, other) for other in card.results if other.arm in others]
        yield f"Training {lead.arm} took {listed(costs)}."


def _against(contrast: TatsContrast) -> str:
    """``random (+5.1 [3.0, 7.2] points, p < 0.001)``."""
    loss = contrast.about == "reconstruction"
    change = figure_text(contrast.difference, 1 if loss else 100, digits=4 if loss else 1, signed=True)
    return f"{contrast.second} ({change}{'' if loss else ' points'}, {p_words(contrast.p_value)})"


def _cost(lead: TatsResult, other: TatsResult) -> str:
    return f"{times(lead, other, 'seconds'):.2f} times the time and {times(lead, other, 'peak_memory_bytes'):.2f} times the " \
           f"memory of {other.arm}"


def _of_seeds(card: TatsCard) -> Iterator[str]:
    few = [one for one in card.results if len(one.seeds) < CLAIMS_FROM]
    if few:
        names = ", ".join(f"{one.arm} ({len(one.seeds)})" for one in few)
        yield (f"Fewer than {CLAIMS_FROM} trainings of {names}: the figures are of these trained models, and this run claims "
               "nothing about training in general.")
    elif card.results:
        yield ("Intervals and p-values are over clips, of what the seeds reach on average; the figures of each seed stand "
               "below them and say how far trainings differ.")


def _of_masked_sets(card: TatsCard) -> Iterator[str]:
    if own := [one.arm for one in card.results if one.chooses == "masked"]:
        yield (f"{listed(own)} draws what is masked: its share on motion cannot be far above chance, and is not compared with "
               "that of arms that draw what is visible.")


def _of_leads(card: TatsCard) -> Iterator[str]:
    if card.results and not any(one.kind == LEAD for one in card.results):
        yield f"No arm is of kind {LEAD}: nothing is compared."
