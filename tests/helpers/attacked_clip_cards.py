"""A card of attacks on clips of the size that real ones have, with rows and clips to match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from squall.platform.report.video_attack_examples import AttackedClip
from squall.platform.report_card import Estimate
from squall.platform.video_attack_card import (
    VIDEO_ATTACKS,
    Figure,
    Training,
    VideoAttackCard,
    VideoAttackResult,
    VideoContrast,
    VideoTransfer,
)

BUDGET, CLIPS, SEEDS = 300, 60, (0, 1, 2)
LEARNED = {"pair": (14.0, 0.97), "spatial-alone": (17.0, 0.96), "temporal-alone": (95.0, 0.81), "no-removal": (15.0, 0.97)}
CONTROLS = {"random": (70.0, 0.86), "greedy": (33.0, 0.98), "greedy-cells": (61.0, 0.95), "nes": (140.0, 0.62),
            "square": (9.0, 1.0), "square-005": (110.0, 0.7), "sva": (170.0, 0.55), "astfocus": (130.0, 0.72)}
"""Median queries of those that fall, and the share that falls."""
KINDS = {"random": "random_cells", "greedy-cells": "greedy", "square": "square_video", "square-005": "square_video"}
NO_CELLS = ("nes", "square", "square-005", "sva", "astfocus")
TRAINING = 12_400
CLASSES = ("walk", "run", "jump", "wave")


def make_rows(attacks: Sequence[str] | None = None, clips: int = CLIPS) -> pa.Table:
    """Rows of all seeds; a clip is as hard for one attack as for the others, more or less."""
    hardness = np.random.default_rng(0).normal(0, 0.5, clips)
    rows = [_row(name, seed, clip, hardness[clip]) for name in attacks or (*LEARNED, *CONTROLS) for seed in SEEDS
            for clip in range(clips)]
    return pa.Table.from_pylist(rows, VIDEO_ATTACKS)


def _row(name: str, seed: int, clip: int, hardness: float) -> dict[str, object]:
    rng = np.random.default_rng([sum(map(ord, name)), seed, clip])
    median, share = (LEARNED | CONTROLS)[name]
    queries = max(2, round(median * math.exp(hardness + rng.normal(0, 0.4))))
    fooled = bool(rng.random() < share and queries < BUDGET)
    cells = 784 if name in NO_CELLS else int(rng.integers(3, 60))
    return {"attack": name, "seed": seed, "clip": clip, "label": clip % 4, "prediction": (clip + fooled) % 4, "fooled": fooled,
            "queries": queries if fooled else BUDGET,
            "removal_queries": min(int(rng.integers(5, 40)), BUDGET - queries) if fooled else 0, "p_clean": 0.97,
            "p_attacked": 0.2 if fooled else 0.7, "l2": 0.3 * cells ** 0.5, "linf": 0.6, "mean_abs": cells / 4e4,
            "ssim": 1 - cells / 2e3, "flicker": 0.3, "cells": cells, "frames": min(16, 2 + cells // 4),
            "trace_queries": [1, 2], "trace_p": [0.97, 0.5], "seen_by": [], "seen_clean": [], "seen_attacked": []}


def make_card(attacks: Sequence[str] | None = None, clips: int = CLIPS, **changes: object) -> VideoAttackCard:
    """A card over `make_rows`; `changes` replace fields."""
    names = tuple(attacks or (*LEARNED, *CONTROLS))
    table = make_rows(names, clips).to_pandas()
    results = tuple(_result(name, table[table.attack == name], clips) for name in names)
    learned = [name for name in names if name in LEARNED]
    pairs = [(first, second) for first in learned for second in names if second != first and (
        first == learned[0] or second == "random")]
    contrasts = tuple(_contrast(table, *pair) for pair in pairs)
    card = VideoAttackCard(
        name="sweep", results=results, contrasts=contrasts,
        victim={"name": "r3d", "path": "runs/sweep/victim", "hash": "5d41402abc4b2a76", "classes": list(CLASSES),
                "accuracy": Estimate(value=0.938, low=0.875, high=0.984, n=64).model_dump()},
        data={"path": "data/embedded/test.jsonl", "hash": "9a0364b9e99bb480", "split": "test", "clips": 64, "train_clips": 120,
              "shape": [16, 112, 112, 3], "source": "frames of films"},
        asked={"attack": {"block": 2, "cell": 16, "distortion": "gaussian_noise", "severity": 1.0, "max_queries": BUDGET,
                          "removal": True, "lam1": 1.0}, "seeds": list(SEEDS),
               "attacks": [{"name": name, "kind": KINDS.get(name, "pair" if name in LEARNED else name), "samples": 8}
                           for name in names]},
        provenance={"squall": "0.9.0", "git": "bd63222", "torch": "2.9.1"},
        trainings=tuple(_training(name, seed) for name in learned for seed in SEEDS),
        transfers=tuple(VideoTransfer(attack=name, victim=victim, shown=len(CLASSES) * 12, fooled=Estimate(
            value=share, low=share - 0.1, high=share + 0.1, n=48))
            for name in names for victim, share in (("mc3", 0.42), ("mobilenetv2", 0.27))),
        ledger=_ledger(table, learned), notes=("Clips were scaled to 112 pixels before the attack.",))
    return card.model_copy(update=changes)


def _figure(values: np.ndarray, per_clip: np.ndarray, low: float = 0.0, high: float = math.inf) -> Figure:
    """Mean of the seeds' values with a normal interval over clips."""
    mean, half = float(np.nanmean(per_clip)), 1.96 * float(np.nanstd(per_clip)) / len(per_clip) ** 0.5
    return Figure(mean=mean, low=max(low, mean - half), high=min(high, mean + half), seeds=tuple(map(float, values)))


def _of(rows, column: str, low: float = 0.0, high: float = math.inf) -> Figure:
    wide = rows.pivot(index="clip", columns="seed", values=column).to_numpy(float)
    return _figure(np.nanmean(wide, 0), wide.mean(1), low, high)


def _result(name: str, rows, clips: int) -> VideoAttackResult:
    kind: Literal["learned", "control"] = "learned" if name in LEARNED else "control"
    fallen = rows[rows.fooled]
    spread = {column: _figure(*(fallen.groupby(key)[column].mean().to_numpy() for key in ("seed", "clip")))
              for column in ("removal_queries", "l2", "linf", "mean_abs", "ssim", "flicker", "cells", "frames")}
    curve = []
    for queries in sorted(set(fallen.queries)):
        share = float((fallen.queries <= queries).sum() / len(rows))
        half = 1.96 * (share * (1 - share) / clips) ** 0.5
        curve.append((int(queries), share, max(0.0, share - half), min(1.0, share + half)))
    return VideoAttackResult(
        attack=name, kind=kind, description=f"{'two agents' if kind == 'learned' else 'control'}, set as {name}", seeds=SEEDS,
        attacked=clips, success=_of(rows, "fooled", high=1.0), queries=_of(rows, "queries"),
        queries_median=float(rows.queries.median()), curve=tuple(curve),
        training_queries=TRAINING if kind == "learned" else 0, **spread)


def _contrast(table, first: str, second: str) -> VideoContrast:
    wide = table.pivot_table(index="clip", columns="attack", values=["queries", "fooled"], aggfunc="mean")
    figures = {}
    for column in ("queries", "fooled"):
        change = (wide[column][first] - wide[column][second]).to_numpy(float)
        figures[column] = _figure(np.array([change.mean()]), change, low=-math.inf)
    saved = -figures["queries"].mean
    p_values = {name: 0.4 if one.low <= 0 <= one.high else 0.0002 for name, one in figures.items()}
    return VideoContrast(first=first, second=second, success=figures["fooled"], queries=figures["queries"],
                         p_success=p_values["fooled"], p_queries=p_values["queries"],
                         break_even_clips=None if saved <= 0 else 0 if second in LEARNED else math.ceil(TRAINING / saved))


def _training(name: str, seed: int) -> Training:
    rng = np.random.default_rng([len(name), seed])
    learning = [(step, min(1.0, 0.6 + 0.012 * step + rng.normal(0, 0.03)), 30 + 90 * math.exp(-step / 9) + rng.normal(0, 6))
                for step in range(1, 31)]
    return Training(attack=name, seed=seed, iterations=30, queries=TRAINING + 100 * seed, episodes=400, infra_errors=2 * seed,
                    failures=0, seconds=95.5, learning=tuple(learning))


def _ledger(table, learned: Sequence[str]) -> dict[str, int]:
    spent = (table.queries + table.removal_queries).groupby([table.attack, table.seed]).sum()
    purposes = {f"attack/{name}/{seed}": int(count) for (name, seed), count in spent.items()}
    purposes |= {f"training/{name}/{seed}": TRAINING + 100 * seed for name in learned for seed in SEEDS}
    purposes |= {"probe": 6, "clean": 64}
    answered = sum(purposes.values())
    return {"begun": answered + 24, "answered": answered, "lost": 24, **purposes}


def attacked_clip(attack: str = "pair", clip: int = 3, side: int = 32, fooled: bool = True, cells: bool = True) -> AttackedClip:
    """Eight frames of a square that moves over a still ground, with noise in a few cells of half the blocks."""
    rng = np.random.default_rng(clip)
    clean = np.repeat(rng.integers(60, 140, (1, side // 4, side // 4, 3)).repeat(4, 1).repeat(4, 2), 8, 0).astype(np.uint8)
    for time, frame in enumerate(clean):
        frame[8:16, 2 * time:2 * time + 8] = (200, 180, 90)
    occupancy = np.zeros((4, side // 8, side // 8), np.int8)
    occupancy[1:3, 1, :2] = 1
    mask = occupancy.repeat(2, 0).repeat(8, 1).repeat(8, 2).astype(bool) if cells else np.ones(clean.shape[:3], bool)
    noise = rng.integers(-90, 91, clean.shape[1:])
    adversarial = np.where(mask[..., None], np.clip(clean.astype(int) + noise, 0, 255), clean).astype(np.uint8)
    trace = tuple((query, 0.97 * 0.93 ** (query - 1)) for query in range(1, 24))
    return AttackedClip(clean, adversarial, occupancy if cells else None, 2, 8, "walk", "run" if fooled else "walk", attack, 1,
                        clip, 23, trace)
