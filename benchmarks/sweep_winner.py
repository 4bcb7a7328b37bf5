"""The best configuration of a sweep, measured again with other seeds and on other questions, beside the one it started from.

    squall data embedded && squall tune @tgrpo-sweep name=sweep && python benchmarks/sweep_winner.py runs/sweep

The winner was chosen from many by one figure, which is therefore too good. Here both configurations run with seeds that the
sweep did not use, and answer the first questions of the test split, which the sweep did not see. A run that is finished is
not run again. Writes SWEEP/winner.md and prints a JSON line: mean gains in points, and the winner's lead with its smallest
and largest value over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from squall.jobs.tune import TuneConfig
from squall.platform.config import load_config

SEEDS = (1, 2, 3)


def main() -> None:
    """Run what is missing, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a finished sweep's folder")
    parser.add_argument("--manifest", type=Path, default=Path("data/embedded/test.jsonl"), help="held-out questions")
    parser.add_argument("--questions", type=int, default=1000, help="how many of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds that the sweep did not use")
    options = parser.parse_args()
    seeds = options.seeds
    config = load_config(TuneConfig, options.sweep / "sweep.yaml")
    default = options.sweep / "default.yaml"
    default.write_text(yaml.safe_dump({"job": config.job, **config.values}, sort_keys=False), encoding="utf-8")
    files = {"default": default, "winner": options.sweep / "best.yaml"}
    runs = {(name, seed): run_once(config.job, name, file, seed, options) for seed in seeds for name, file in files.items()}
    table = markdown(runs, seeds)
    (options.sweep / "winner.md").write_text(table, encoding="utf-8")
    print(table)
    leads = {branch: [100 * (runs["winner", seed][branch]["diff"] - runs["default", seed][branch]["diff"]) for seed in seeds]
             for branch in ("corrupted", "clean")}
    print(json.dumps({f"lead_{branch}": {"mean": round(mean(lead), 2), "min": round(min(lead), 2), "max": round(max(lead), 2)}
                      for branch, lead in leads.items()}))


def run_once(job: str, name: str, file: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run's results.json, from disk where it is finished."""
    folder = options.sweep / "again"
    run = folder / f"{name}-seed-{seed}"
    if not (run / "results.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
        print(f"{name}, seed {seed}", flush=True)
        subprocess.run([sys.executable, "-m", "squall", *job.split(), str(file), f"seed={seed}", f"name={run.name}",
                        f"output={folder}", f"evaluation.manifest={options.manifest}", "evaluation.every_steps=0",
                        f"evaluation.questions={options.questions}"], check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def markdown(runs: dict[tuple[str, int], dict[str, Any]], seeds: Sequence[int]) -> str:
    """Every run in a row, and the means over seeds."""
    lines = ["| configuration | seed | corrupted, points | clean, points |", "| --- | --- | --- | --- |"]
    for name in ("default", "winner"):
        own = [runs[name, seed] for seed in seeds]
        lines += [f"| {name} | {seed} | {points(results['corrupted'])} | {points(results['clean'])} |"
                  for seed, results in zip(seeds, own, strict=True)]
        means = (100 * mean(results[branch]["diff"] for results in own) for branch in ("corrupted", "clean"))
        lines.append(f"| **{name}** | mean | " + " | ".join(f"**{value:+.1f}**" for value in means) + " |")
    first = runs["default", seeds[0]]
    foot = (f"Before training: corrupted {first['corrupted']['before']:.1%}, clean {first['clean']['before']:.1%}; "
            f"n = {first['n']}; paired 95 % bootstrap intervals over questions.")
    return "\n".join([*lines, "", foot]) + "\n"


def points(result: dict[str, Any]) -> str:
    """Gain in percentage points with its interval."""
    low, high = (100 * bound for bound in result["ci95"])
    return f"{100 * result['diff']:+.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
