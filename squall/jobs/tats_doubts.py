"""Reasons not to trust the figures of masked video trainings, each a sentence that says what was found and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import numpy as np

from squall.jobs.console import counted
from squall.jobs.tats_rows import HeldRows
from squall.platform.tats_card import PARTS, TatsCard, TatsResult

FEWEST_CLIPS = 20
KNOWS_LITTLE = 0.95
"""A loss that is no less than this share of a constant prediction's is that of an autoencoder that has hardly learned."""


def card_doubts(card: TatsCard, held: HeldRows) -> tuple[str, ...]:
    """What speaks against the figures of a card that is complete but for them."""
    return tuple([*_of_training(card), *_of_collapse(card), *_of_ratios(card), *_of_seeds(card), *_of_probe(card),
                  *_of_clips(card, held), *_of_losses(card, held)])


def _of_training(card: TatsCard) -> Iterator[str]:
    if slow := [text for one in card.results if (text := _hardly(card, one))]:
        yield (f"Autoencoders that predict held-out clips hardly better than a constant: {', '.join(slow)}. They "
               "have hardly learned, or their training footage alone: reconstruction and probes say little. Train for more "
               "steps, or on more clips.")
    idle = [f"{one.arm} (seed {one.seed})" for one in card.measures if one.sampler_parameters and not one.sampler_updates]
    if idle:
        yield (f"The sampler of {', '.join(idle)} never learned: training ended within its warm-up, and it is as it was made. "
               "Lower sampler_training.warmup_steps, or train for more steps.")


def _hardly(card: TatsCard, result: TatsResult) -> str:
    """An arm whose loss is next to that of a constant, with both; empty for others."""
    constant = [one.constant_loss for one in card.measures if one.arm == result.arm and one.constant_loss]
    loss = result.loss_random.mean
    if loss is None or not constant or loss <= KNOWS_LITTLE * fmean(constant):
        return ""
    return f"{result.arm} ({loss:.4f} against {fmean(constant):.4f})"


def _of_collapse(card: TatsCard) -> Iterator[str]:
    for one in card.measures:
        if one.collapsed_steps:
            yield (f"{one.arm} (seed {one.seed}) collapsed in {one.collapsed_steps:,} of {counted(one.steps, 'step')}: it drew "
                   f"the same tokens again and again (entropy {one.entropy_share:.2f} of drawing at random, overlap of clips "
                   f"{one.overlap:.2f} at the end).")


def _of_ratios(card: TatsCard) -> Iterator[str]:
    asked = {name: arm.get("mask_ratio", {}).get("ratio") for name, arm in card.asked["arms"].items()}
    if len(set(asked.values())) > 1:
        told = ", ".join(f"{name} {ratio:g}" for name, ratio in asked.items())
        yield (f"Arms have different mask ratios ({told}): each is measured at its own, under random masks too. Some have a "
               "harder task than others, and neither reconstruction nor motion can be compared between them.")


def _of_seeds(card: TatsCard) -> Iterator[str]:
    if card.results and all(len(one.seeds) == 1 for one in card.results):
        yield ("One training of each arm: another seed may turn differences between arms round. Intervals and p-values do not "
               "know of this; they are over clips.")


def _of_probe(card: TatsCard) -> Iterator[str]:
    known = [one for one in card.results if one.probe.low is not None and one.probe_classes]
    if known and all((one.probe.low or 0.0) <= 1 / (one.probe_classes or 1) for one in known):
        classes = known[0].probe_classes or 1
        yield (f"No linear probe is above chance (1 in {classes}): the features do not tell these classes apart, and which "
               "arm's probe is better says nothing.")


def _of_clips(card: TatsCard, held: HeldRows) -> Iterator[str]:
    for part in PARTS:
        if 0 < (clips := int(held.within(part).sum())) < FEWEST_CLIPS:
            yield f"Only {counted(clips, 'held-out clip')} of '{part}': below {FEWEST_CLIPS} intervals are wide."
    known = [own.means("motion") for own in held.arms.values() if own.known("motion").all() and own.seeds]
    if known and float(np.ptp(np.stack(known), axis=0).max(initial=0.0)) > 1e-6:
        yield "True motion of the held-out clips differs between arms: they were not measured on the same clips."


def _of_losses(card: TatsCard, held: HeldRows) -> Iterator[str]:
    trained = {(one.arm, one.seed) for one in card.measures}
    asked = {(arm, seed) for arm in held.arms for seed in card.asked.get("seeds", ())}
    measured = {(arm, seed) for arm, own in held.arms.items() for seed in own.seeds}
    for arm, seed in sorted((asked | trained | measured) - (trained & measured)):
        yield f"{arm} has nothing of seed {seed}: its figures are over its other seeds, if there are any."
    for arm, own in held.arms.items():
        if own.seeds and (lost := int((~own.known("loss_random")).sum())):
            yield (f"Of {arm} {counted(lost, 'held-out clip')} are not measured in every seed: its figures are over the "
                   "others, and those of other arms over more.")
