"""Records of one training of `squall train tats`: rows of held-out clips, masks, its measure, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from squall.jobs.train_tats_config import Arm
from squall.jobs.train_tats_plan import TatsPlan
from squall.platform.report.tats_masks import MaskExample
from squall.platform.tats_card import TATS_CLIPS, LearningPoint, TatsMeasure

if TYPE_CHECKING:
    from squall.algorithms.masked_video.measures import Measured

POINTS = 100
"""At most so many points of a learning curve go into a measure."""


def clip_rows(arm: str, seed: int, measured: Measured) -> pa.Table:
    """Rows of `TATS_CLIPS`; what was not measured is null."""
    rows = [{"arm": arm, "seed": seed, **row} for row in measured.rows()]
    return pa.Table.from_pylist(rows, schema=TATS_CLIPS)


def mask_examples(arm: Arm, seed: int, measured: Measured) -> list[MaskExample]:
    """What is kept for the page, numbered within each part."""
    sizes, counts = arm.config.autoencoder, dict.fromkeys((sample.part for sample in measured.examples), 0)
    found = []
    for sample in measured.examples:
        found.append(MaskExample(sample.clip, sample.visible, sample.probabilities, sample.motion, arm.name, seed, sample.part,
                                 counts[sample.part], sizes.tubelet, sizes.patch))
        counts[sample.part] += 1
    return found


def summary(measured: Measured) -> dict[str, float]:
    """Means over the held-out clips, for trackers and sweeps: ``measured/loss_random`` and so on, what is known of them."""
    found = {name: [row[name] for row in measured.rows() if row[name] is not None]
             for name in ("loss_own", "loss_random", "visible_motion", "sampled_motion", "motion", "probe_correct")}
    return {f"measured/{name}": fmean(float(value) for value in values) for name, values in found.items() if values}


def make_measure(plan: TatsPlan, arm: Arm, seed: int, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
                 ) -> TatsMeasure:
    """The record of one training, from what its worker says and its figures."""
    config, measured = plan.config, facts["measured"]
    clips = facts["steps"] * config.batch_clips
    tokens = clips * config.masks_per_clip * arm.config.autoencoder.grid().tokens
    return TatsMeasure(
        arm=arm.name, seed=seed, kind=arm.config.sampler.kind, chooses=arm.config.sampler.credits.chooses, steps=facts["steps"],
        clips=clips, seconds=round(facts["seconds"], 2), tokens_per_second=tokens / facts["seconds"],
        peak_memory_bytes=int(facts["peak_bytes"]), parameters=facts["parameters"],
        sampler_parameters=facts["sampler_parameters"], sampler_updates=facts["sampler_updates"],
        entropy_share=measured.entropy_share, overlap=measured.overlap, collapsed_steps=int(facts["collapsed_steps"]),
        constant_loss=measured.constant_loss, probe_accuracy=measured.probe_accuracy,
        probe_classes=None if plan.held.probe is None else plan.held.classes, mask_ratio=facts["mask_ratio"],
        learning=learning_curve(rows))


def learning_curve(rows: Sequence[Mapping[str, Any]]) -> tuple[LearningPoint, ...]:
    """At most `POINTS` points, each the mean over some rows of figures."""
    size = -(-len(rows) // POINTS)
    return tuple(_point(rows[start:start + size]) for start in range(0, len(rows), max(1, size)))


def _point(rows: Sequence[Mapping[str, Any]]) -> LearningPoint:
    def mean(name: str) -> float | None:
        found = [row[name] for row in rows if row.get(name) is not None]
        return sum(found) / len(found) if found else None

    return LearningPoint(step=rows[-1]["step"], loss=mean("loss"), entropy_share=mean("sequence_entropy_share"),
                         overlap=mean("overlap"), motion_sampled=mean("motion/sampled"), motion_visible=mean("motion/visible"),
                         motion_chance=mean("motion/chance"))


def told(measure: TatsMeasure, dropped: int) -> str:
    """One line on a training that is done; `dropped` clips could not be used."""
    first, last = measure.learning[0], measure.learning[-1]
    parts = [f"loss {first.loss:.4f} at first, {last.loss:.4f} at last"]
    if last.motion_visible is not None:
        parts.append(f"{last.motion_visible:.1%} of visible tokens on motion, {last.motion_chance:.1%} by chance")
    if measure.probe_accuracy is not None:
        parts.append(f"probe {measure.probe_accuracy:.1%}")
    if dropped:
        parts.append(f"{dropped:,} clips cannot be used, each named in events.jsonl")
    return f"{'; '.join(parts)}; {measure.seconds:.0f} s, {measure.tokens_per_second:,.0f} tokens/s"
