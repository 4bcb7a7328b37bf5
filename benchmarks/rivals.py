"""T-GRPO beside its rivals at equal compute, three seeds each, every run reported.

    squall data embedded && python benchmarks/rivals.py

Fixed beforehand: the seeds, the held-out questions (the first 1,000 of the test split, footage that no run trains on), and
the configuration, which was tuned on the validation split. Every run starts from the shipped policy. The three
reinforcement-learning runs of a seed train on the same number of answers in the same number of steps; supervised training
gets the number of steps that takes about the same time (`seconds` in the table is what each took).

A run that is finished is not run again: stop the script and start it where you like. Writes OUTPUT/results.json and
OUTPUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

SEEDS = (0, 1, 2)
TGRPO_STEPS = 30
SFT_STEPS = 550
METHODS: dict[str, tuple[str, ...]] = {
    "T-GRPO": ("tgrpo", "@demo", f"steps={TGRPO_STEPS}"),
    "clean-only GRPO": (
        "tgrpo", "@demo", f"steps={TGRPO_STEPS}", "tgrpo.optimise=clean", "tgrpo.samples_per_group=12", "tgrpo.contrast=off",
        "tgrpo.shuffled_samples=0", "rewards.weights={accuracy: 1.0, format: 0.2}"),
    "SFT on corrupted clips": (
        "sft", "@sft", f"steps={SFT_STEPS}", "model.path=@embedded", "corruption.severity=[0.0, 0.9]",
        "learner.optimiser.learning_rate=1.0e-4", "evaluation.severity=0.7"),
    "T-GRPO, rewards permuted": ("tgrpo", "@demo", f"steps={TGRPO_STEPS}", "shuffle_rewards=true"),
}


def main() -> None:
    """Run what is missing, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), help="folder of the embedded data set")
    parser.add_argument("--output", type=Path, default=Path("runs/rivals"), help="folder for the runs and the table")
    parser.add_argument("--questions", type=int, default=1000, help="held-out questions of each run")
    parser.add_argument("--limit-minutes", type=float, default=30.0, help="longest time of one run")
    options = parser.parse_args()
    runs = [(method, seed, run_once(method, seed, options)) for seed in SEEDS for method in METHODS]
    (options.output / "results.json").write_text(json.dumps(
        [{"method": method, "seed": seed, **results} for method, seed, results in runs], indent=1), encoding="utf-8")
    table = markdown(runs)
    (options.output / "table.md").write_text(table, encoding="utf-8")
    print(table)


def run_once(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run's results.json, from disk where it is finished."""
    name = f"{''.join(c if c.isalnum() else '-' for c in method.lower())}-seed-{seed}"
    results = options.output / name / "results.json"
    if not results.is_file():
        job, config, *overrides = METHODS[method]
        print(f"{method}, seed {seed}", flush=True)
        command = [
            sys.executable, "-m", "squall", "train", job, config, *overrides, f"seed={seed}",
            f"name={free(options.output, name)}", f"output={options.output}", f"data.train={options.data / 'train.jsonl'}",
            f"evaluation.manifest={options.data / 'test.jsonl'}", f"evaluation.questions={options.questions}"]
        subprocess.run(command, check=True, timeout=60 * options.limit_minutes, stdout=subprocess.DEVNULL)
    return json.loads(results.read_text(encoding="utf-8"))


def free(output: Path, name: str) -> str:
    """`name`, after moving an unfinished run of that name aside."""
    folder = output / name
    if folder.exists():
        number = next(n for n in range(1, 1000) if not (output / f"{name}-unfinished-{n}").exists())
        folder.rename(output / f"{name}-unfinished-{number}")
    return name


def markdown(runs: list[tuple[str, int, dict[str, Any]]]) -> str:
    """Every run in a row of its own, and the means over seeds."""
    lines = ["| method | seed | corrupted, points | clean, points | seconds |", "| --- | --- | --- | --- | --- |"]
    for method in METHODS:
        own = [(seed, results) for name, seed, results in runs if name == method]
        for seed, results in own:
            lines.append(f"| {method} | {seed} | {points(results['corrupted'])} | {points(results['clean'])} "
                         f"| {work(results):.0f} |")
        corrupted, clean = (100 * mean(results[branch]["diff"] for _, results in own) for branch in ("corrupted", "clean"))
        lines.append(f"| **{method}** | mean | **{corrupted:+.1f}** | **{clean:+.1f}** "
                     f"| {mean(work(results) for _, results in own):.0f} |")
    first = runs[0][2]
    lines.append("")
    lines.append(f"Before training: corrupted {first['corrupted']['before']:.1%}, clean {first['clean']['before']:.1%}; "
                 f"n = {first['n']}; paired 95 % bootstrap intervals over questions.")
    return "\n".join(lines) + "\n"


def points(result: dict[str, Any]) -> str:
    """Gain in percentage points with its interval."""
    low, high = (100 * bound for bound in result["ci95"])
    return f"{100 * result['diff']:+.1f} [{low:.1f}, {high:.1f}]"


def work(results: dict[str, Any]) -> float:
    """Seconds of training: everything but starting, evaluating and reporting."""
    return sum(results["seconds"].get(phase, 0.0) for phase in ("rollout", "corrupt", "learn", "sync"))


if __name__ == "__main__":
    main()
