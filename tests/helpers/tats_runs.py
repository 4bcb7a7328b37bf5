"""Rows, measures and masks of runs of masked video trainings whose truth is known by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from squall.platform.report.tats_masks import MaskExample
from squall.platform.tats_card import TATS_CLIPS, LearningPoint, TatsMeasure

CHANCE = 0.1
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Made:
    """What an arm does with every clip, on average, and what it costs."""

    kind: str
    motion: float = CHANCE
    """Share of drawn tokens on motion."""
    blind: float | None = CHANCE
    loss: float = 0.5
    probe: float = 0.5
    chooses: str = "visible"
    seconds: float = 10.0
    updates: int = 300
    collapsed: int = 0


ARMS = {"tats": Made("tats", 0.3, 0.12, 0.4, 0.7, seconds=30.0), "random": Made("random", updates=0),
        "flow": Made("flow", 0.6, 0.2, 0.4, 0.5), "reinforce": Made("reinforce", 0.3, 0.12, 0.6, 0.5)}


def rows(arms: Mapping[str, Made], clips: int = 40, seeds: Sequence[int] = SEEDS, parts: Sequence[str] = ("still", "pan"),
         spread: float = 0.05) -> list[dict[str, Any]]:
    """Figures of clips lie around an arm's, the same distances for all arms of equal means; seeds add a little."""
    made = []
    for arm, own in arms.items():
        for seed in seeds:
            for part in parts:
                off = spread * np.sin(np.arange(clips) * 2.4)
                off -= off.mean()
                for clip in range(clips):
                    sampled = own.motion + float(off[clip]) + 0.01 * (seed - 2)
                    made.append({
                        "arm": arm, "seed": seed, "part": part, "clip": clip, "visible_motion": sampled,
                        "sampled_motion": sampled, "motion": CHANCE, "blind_motion": own.blind, "loss_own": own.loss + 0.1,
                        "loss_random": own.loss, "loss_moving": 2 * own.loss, "loss_still": own.loss / 2,
                        "probe_correct": clip % 10 < 10 * own.probe})
    return made


def table_of(made: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(made), schema=TATS_CLIPS)


def measures(arms: Mapping[str, Made], seeds: Sequence[int] = SEEDS, **changes: Any) -> list[TatsMeasure]:
    found = []
    for arm, own in arms.items():
        learns = own.kind in ("tats", "reinforce", "adamae")
        for seed in seeds:
            curve = tuple(LearningPoint(step=step, loss=3.0 if step == 10 else own.loss, entropy_share=0.9, overlap=0.1,
                                        motion_sampled=own.motion, motion_visible=own.motion, motion_chance=CHANCE)
                          for step in range(10, 410, 10))
            found.append(TatsMeasure.model_validate({
                "arm": arm, "seed": seed, "kind": own.kind, "chooses": own.chooses, "steps": 400, "clips": 12800,
                "seconds": own.seconds, "tokens_per_second": 1e6 / own.seconds, "peak_memory_bytes": 2**30 + 2**20 * seed,
                "parameters": 100_000, "sampler_parameters": 5000 if learns else 0, "sampler_updates": own.updates,
                "entropy_share": 0.9, "overlap": 0.1, "collapsed_steps": own.collapsed, "constant_loss": 1.0,
                "probe_accuracy": own.probe, "probe_classes": 4, "mask_ratio": 0.85, "learning": curve, **changes}))
    return found


def facts(arms: Mapping[str, Made], seeds: Sequence[int] = SEEDS, **changes: Any) -> dict[str, Any]:
    return {"name": "run", "provenance": {"squall": "1"}, "lost": (),
            "data": {"hash": "d1", "shape": [8, 32, 32, 3], "tokens": 64, "parts": {"still": 40, "pan": 40}},
            "asked": {"arms": {arm: {"kind": own.kind} for arm, own in arms.items()}, "seeds": list(seeds), "steps": 400,
                      "batch_clips": 32, "mask_ratio": 0.85}, **changes}


def mask_example(arm: str = "tats", part: str = "still", number: int = 0, seed: int = 1, likely: bool = True,
                 moving: bool = True) -> MaskExample:
    """A clip of 4 frames of 16x16, 2 x 4 x 4 tokens; token (0, 1, 1) is on motion, and four times as likely as by chance."""
    rng = np.random.default_rng(number)
    motion = np.zeros(32, bool)
    motion[5] = True
    visible = np.zeros((2, 32), bool)
    visible[0, [5, 6]] = visible[1, [7, 8]] = True
    probabilities = np.where(motion, 4 / 32, (1 - 4 / 32) / 31)
    return MaskExample(rng.integers(40, 255, (4, 16, 16, 3), np.uint8), visible, probabilities if likely else None,
                       motion if moving else None, arm, seed, part, number, 2, 4)
