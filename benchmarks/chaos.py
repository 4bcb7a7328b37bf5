"""Twenty random kills in one run, all counted: the run must consume and learn what an undisturbed one does.

    squall data embedded && python benchmarks/chaos.py

Two runs of @demo, the same but for SIGKILLs: at random moments a random engine, corruption worker or reward worker dies, a new
kill as soon as the last victim is back, until all kills are done. Compared are the questions that each step consumed, as
multisets, and the losses; every death is counted in events.jsonl and every group tried again in metrics.jsonl. With
--max-staleness 1 the weights that an answer was sampled from depend on timing, so only the counting is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray

from squall.actors.cluster import namespace_for, start_ray, stop_ray
from squall.platform.tracking import read_metrics

ROLES = ("engine", "corruption", "reward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), help="folder of the embedded data set")
    parser.add_argument("--output", type=Path, default=Path("runs/chaos"), help="folder for the two runs")
    parser.add_argument("--kills", type=int, default=20, help="workers to kill")
    parser.add_argument("--steps", type=int, default=40, help="steps of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and victims")
    parser.add_argument("--max-staleness", type=int, default=0, help="of both runs")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    start_ray()
    try:
        start("calm", options).wait()
        process = start("hurt", options)
        killed = kill(process, options)
        status = process.wait()
    finally:
        stop_ray()
    report(options, killed, status)


def start(name: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start one of the two runs on the cluster of this process; its output goes to OUTPUT/NAME.log."""
    options.output.mkdir(parents=True, exist_ok=True)
    words = [f"data.train={options.data / 'train.jsonl'}", "evaluation.manifest=null", f"output={options.output}",
             f"name={name}", f"steps={options.steps}", f"max_staleness={options.max_staleness}", "workers.max_attempts=10",
             "checkpoint_every_steps=10"]
    return subprocess.Popen([sys.executable, "-m", "squall", "train", "tgrpo", "@demo", *words],
                            stdout=(options.output / f"{name}.log").open("wb"), stderr=subprocess.STDOUT,
                            env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address})


def kill(process: subprocess.Popen[bytes], options: argparse.Namespace) -> Counter[str]:
    """Kill workers until all kills are done or the run has ended; returns how many of each role died."""
    rng, killed = random.Random(options.seed), Counter[str]()
    while process.poll() is None and not (options.output / "hurt" / "consumed.jsonl").exists():
        time.sleep(0.2)
    while process.poll() is None and killed.total() < options.kills:
        role = rng.choice(ROLES)
        victim = process_of(f"{role}-0")
        if victim is None:  # not back yet
            time.sleep(0.5)
            continue
        time.sleep(rng.uniform(0.0, 1.5))
        os.kill(victim, signal.SIGKILL)
        killed[role] += 1
        print(f"kill {killed.total()} of {options.kills}: {role}-0, process {victim}", flush=True)
        while process.poll() is None and process_of(f"{role}-0") in (None, victim):
            time.sleep(0.5)
        time.sleep(rng.uniform(0.5, 2.0))
    return killed


def process_of(name: str) -> int | None:
    """The process id of a worker of the disturbed run; None while it cannot be asked."""
    try:
        return ray.get(ray.get_actor(name, namespace=namespace_for("hurt")).ping.remote(), timeout=10)
    except (ValueError, ray.exceptions.RayError, TimeoutError):
        return None


def consumed(run: Path) -> Counter[Any]:
    """How often each (step, question, outcome) was consumed."""
    rows = [json.loads(line) for line in (run / "consumed.jsonl").read_text().splitlines()]
    return Counter((row["step"], *group) for row in rows for group in row["groups"].items())


def report(options: argparse.Namespace, killed: Counter[str], status: int) -> None:
    """Print what was killed, what was counted, and whether the two runs are the same."""
    calm, hurt = options.output / "calm", options.output / "hurt"
    events = [json.loads(line) for line in (hurt / "events.jsonl").read_text().splitlines()]
    deaths = Counter(event["worker"].split("-")[0] for event in events if event.get("after") == "dead")
    retried: Counter[str] = Counter()
    for row in read_metrics(hurt / "metrics.jsonl"):
        retried.update({name: int(value) for name, value in row.items() if name.startswith("retried/")})
    first, second = ([row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row] for run in (calm, hurt))
    lost = sum(outcome == "infrastructure" for _, _, outcome in consumed(hurt).elements())
    twice = max(Counter(question for _, question, _ in consumed(hurt).elements()).values()) > 1
    print(f"exit status {status}; killed {dict(killed)}, deaths counted {dict(deaths)}, groups tried again {dict(retried)}, "
          f"lost {lost}, any question consumed twice: {twice}")
    print(json.dumps({
        "kills": killed.total(), "deaths_counted": deaths.total(), "retried_groups": retried.total(), "lost_groups": lost,
        "same_consumed": consumed(calm) == consumed(hurt),
        "max_loss_difference": max((abs(a - b) for a, b in zip(first, second, strict=False)), default=None),
        "steps": len(second)}))


if __name__ == "__main__":
    main()
