"""How often the intervals of a report card cover the truth, on simulated answers whose truth is known.

    python benchmarks/interval_coverage.py [--trials 2000]

Videos differ in how hard they are and in how much a corruption harms them, and several questions share one. `simulate` says
how. Compared is the plain percentile interval. Results to expect (2,000 trials, minutes): docs/metrics.md has the table.
The last line is one JSON object: ``ratio`` is the lowest coverage from 20 videos on over 0.95.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator

import numpy as np

from squall.algorithms.bootstrap import Bootstrap, intervals, simultaneous_interval
from squall.algorithms.calibration import calibrate
from squall.algorithms.statistics import holm, mcnemar_exact

CLEAN = 0.6
LOST = np.array([0.15, 0.25, 0.35, 0.45])
"""Share of right answers that each of four corruptions turns wrong."""
GAINED = 0.1
SPREAD = 4.0
"""Both vary between videos as beta distributions with this sum of parameters: a correlation of 1 / (1 + 4) inside a video."""
RESAMPLES = 1000
TRUTH = {"clean": CLEAN, "change": float((CLEAN * (1 - LOST) + (1 - CLEAN) * GAINED).mean()) - CLEAN,
         "rpc": float((CLEAN * (1 - LOST) + (1 - CLEAN) * GAINED).mean()) / CLEAN, "flip_rate": float(LOST.mean())}


def simulate(rng: np.random.Generator, trials: int, videos: int, per_video: int,
             uneven: bool) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, bool (trials, V, M, 1 + 4), clean first, and which of M questions a video has, bool (trials, V, M)."""
    sizes = np.full((trials, videos), per_video)
    if uneven:
        sizes = np.minimum(rng.geometric(1 / per_video, sizes.shape), 5 * per_video)
    asked = np.arange(sizes.max()) < sizes[..., None]
    ability = rng.beta(SPREAD * CLEAN, SPREAD * (1 - CLEAN), (trials, videos, 1))
    harm = rng.beta(SPREAD * LOST, SPREAD * (1 - LOST), (trials, videos, 1, len(LOST)))
    clean = rng.random(asked.shape) < ability
    draw = rng.random((*asked.shape, len(LOST)))
    corrupted = np.where(clean[..., None], draw >= harm, draw < GAINED)
    return np.concatenate([clean[..., None], corrupted], axis=3), asked


def coverage(trials: int, videos: int, per_video: int = 5, uneven: bool = False, seed: int = 0,
             plain: bool = False) -> dict[str, float]:
    """Share of the trials whose interval holds the truth, by figure. Trials share the bootstrap's draws, not their answers."""
    right, asked = simulate(np.random.default_rng(seed), trials, videos, per_video, uneven)
    right &= asked[..., None]
    sums, counts = right.sum(2).astype(float), np.repeat(asked.sum(2)[..., None], 5, 2).astype(float)
    flipped = (right[..., :1] & ~right).sum(2).astype(float)
    once, mean = np.eye(5)[0], np.array([0, *[1 / 4] * 4])
    figures = Bootstrap()
    for t in range(trials):
        figures.add(sums[t], counts[t], once)
        figures.add(sums[t] - sums[t][:, :1], counts[t], mean)
        figures.add(sums[t], counts[t], mean)
        figures.add(flipped[t], np.repeat(sums[t][:, :1], 5, 1), mean)
    draws = figures.draw(RESAMPLES, seed)
    values, samples, clusters = (array.reshape(*array.shape[:-1], trials, 4) for array in
                                 (draws.values, draws.samples, draws.clusters))
    with np.errstate(invalid="ignore", divide="ignore"):
        values, samples = (np.stack([array[..., 0], array[..., 1], array[..., 2] / array[..., 0], array[..., 3]], -1)
                           for array in (values, samples))
    samples[~np.isfinite(samples)] = np.nan
    found = {}
    for i, (name, truth) in enumerate(TRUTH.items()):
        low, high = (np.nanquantile(samples[..., i], [0.025, 0.975], axis=0) if plain
                     else intervals(values[:, i], samples[..., i], clusters[:, i]))
        found[name] = float(((low <= truth) & (truth <= high)).mean())
    return found


def ceiling_coverage(trials: int, videos: int, accuracy: float, seed: int = 0) -> float:
    """How often the interval of an accuracy near 1 holds it; two questions a video."""
    rng, figures = np.random.default_rng(seed), Bootstrap()
    for _ in range(trials):
        right = rng.binomial(2, rng.beta(SPREAD * accuracy, SPREAD * (1 - accuracy), (videos, 1))).astype(float)
        figures.add(right, np.full((videos, 1), 2.0), np.ones(1))
    low, high = figures.draw(RESAMPLES, seed).interval()
    return float(((low <= accuracy) & (accuracy <= high)).mean())


def worst_coverage(trials: int, videos: int, kinds: int, apart: float, seed: int = 0) -> tuple[float, float]:
    """How often the worst kind's interval holds the accuracy under that kind: with and without allowing for the choice."""
    rng, held = np.random.default_rng(seed), np.zeros(2)
    truth = CLEAN + np.linspace(-apart, apart, kinds)
    for trial in range(trials):
        shares = rng.binomial(3, rng.beta(SPREAD * truth, SPREAD * (1 - truth), (videos, kinds))).astype(float)
        figures = Bootstrap()
        for k in range(kinds):
            figures.add(shares[:, k:k + 1], np.full((videos, 1), 3.0), np.ones(1))
        draws = figures.draw(400, trial)
        chosen = int(draws.values.argmin())
        bounds = simultaneous_interval(draws.values, draws.samples, videos, chosen)
        alone = [float(bound[0]) for bound in intervals(draws.values[[chosen]], draws.samples[:, [chosen]],
                                                        draws.clusters[[chosen]])]
        held += [low <= truth[chosen] <= high for low, high in (bounds, alone)]
    return float(held[0] / trials), float(held[1] / trials)


def calibration_coverage(trials: int, videos: int, overconfident: float, seed: int = 0) -> tuple[float, float]:
    """How often intervals of ECE and Brier score hold the truth, for a model whose accuracy is so far below its confidence."""
    rng, held = np.random.default_rng(seed), np.zeros(2)
    labels = np.repeat(np.arange(videos), 5)

    def answers(clusters: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.beta(3, 1.5, clusters * 5)
        return confidence, (rng.random(clusters * 5) < np.maximum(confidence - overconfident, 0)).astype(float)

    confidence, scores = answers(400_000)
    bins = np.minimum((10 * confidence).astype(int), 9)
    truth = np.abs(np.bincount(bins, scores - confidence)).sum() / len(scores), ((confidence - scores) ** 2).mean()
    truth = (truth[0] if overconfident else 0.0, truth[1])
    for trial in range(trials):
        card = calibrate(*answers(videos), labels, 400, trial)
        held += [one.low <= value <= one.high for one, value in zip((card.ece, card.brier), truth, strict=True)]
    return float(held[0] / trials), float(held[1] / trials)


def false_findings(trials: int, videos: int, per_video: int = 5, conditions: int = 20, seed: int = 0) -> dict[str, float]:
    """Two models of equal accuracy that differ from video to video: how often tests at 5 % find a difference.

    Per test, with each video and with each question as a coin, and any in a family of tests after and before Holm's correction.
    """
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(videos), per_video)
    singles, blind, family, uncorrected = [], [], [], []
    for _ in range(trials):
        p_values = []
        for _ in range(conditions):
            skill = rng.beta(1, 1, (2, videos))[:, labels]
            first, second = rng.random(skill.shape) < skill
            p_values.append(mcnemar_exact(first, second, labels))
            blind.append(mcnemar_exact(first, second) < 0.05)
        singles += [p < 0.05 for p in p_values]
        uncorrected.append(min(p_values) < 0.05)
        family.append(min(holm(p_values)) < 0.05)
    return {"by video": float(np.mean(singles)), "by question": float(np.mean(blind)), "any of 20": float(np.mean(uncorrected)),
            "any of 20, Holm": float(np.mean(family))}


def report(trials: int) -> Iterator[float]:
    """Print all tables; yields the coverages from 20 videos on."""
    print(f"truth: {', '.join(f'{name} {value:.3f}' for name, value in TRUTH.items())}")
    print("videos  sizes   interval    " + "  ".join(f"{name:>9}" for name in TRUTH))
    for videos in (5, 10, 20, 40, 80, 200):
        for uneven in (False, True):
            for plain in (False, True):
                found = coverage(trials, videos, uneven=uneven, plain=plain, seed=videos)
                print(f"{videos:6}  {'uneven' if uneven else 'equal ':6}  {'percentile' if plain else 'widened   '}  "
                      + "  ".join(f"{value:9.3f}" for value in found.values()), flush=True)
                if videos >= 20 and not plain:
                    yield from found.values()
    for videos, wrong in ((40, 2), (40, 4), (40, 8), (200, 2), (200, 4), (200, 8), (200, 16)):
        held = ceiling_coverage(trials, videos, 1 - wrong / (2 * videos))
        print(f"{videos} videos, {wrong} wrong answers expected: {held:.3f}", flush=True)
    for kinds, apart in ((8, 0.0), (29, 0.0), (29, 0.1), (29, 0.3)):
        allowed, alone = worst_coverage(trials // 4, 100, kinds, apart)
        print(f"worst of {kinds} kinds, {2 * apart:g} apart, 100 videos: {allowed:.3f}, as if not chosen {alone:.3f}",
              flush=True)
    for videos, over in ((100, 0.0), (100, 0.1), (100, 0.3), (40, 0.1)):
        ece, brier = calibration_coverage(trials // 4, videos, over)
        print(f"{videos} videos, overconfident by {over}: ECE {ece:.3f}, Brier {brier:.3f}", flush=True)
    print("false findings at 5 %:", false_findings(trials // 10, 100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    lowest = min(report(parser.parse_args().trials))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"benchmark": "interval_coverage", "ratio": round(lowest / 0.95, 4), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
