"""Where a step's time goes with `max_staleness` 0 and 1, step time over the longer of its two halves, and what the consistency
rewards add to it.

    squall data embedded && python benchmarks/step_breakdown.py

Four measurements, all through `squall train tgrpo`:

- @demo with max_staleness 0: rollout, learn, sync and record one after the other.
- @demo with max_staleness 1: sampling goes on while the learner learns. Its step time is put over max(rollout, learn) of the
  synchronous run, where each half has the machine to itself; on two cores they compete for them.
- max_staleness 1 with stub engines that take a known time and no CPU, and the real learner: what remains is the loop's own
  overhead. The longer half is the larger of the known rollout time and the measured learning time.
- @demo with max_staleness 0 without and with the rewards `consistency` and `kl_consistency`, in the order without, with, with,
  without, so that a drift of the machine cancels. Their weights are 0: they are computed and logged, and all four runs ask and
  learn the same. `reward_share` is the extra time of the median step over the median step without.

The first steps of each run warm up and are left out; medians over the others. A machine that is busy otherwise spoils the
figures.

Results to expect on two CPU cores: 1.2 to 1.4 for 0 (one half after the other), about 1.0 for 1, at most 1.10 for stubs; a
`reward_share` below 0.15.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import ray

from squall.actors.sampling import GroupSampler
from squall.jobs import session, tgrpo
from squall.platform.config import load_config
from squall.platform.models import load_processor
from squall.platform.records import Rollout
from squall.platform.tracking import read_metrics

WARM_UP = 3
REWARDS = {"plain": "rewards.weights={accuracy: 1.0, format: 0.2}",
           "compared": "rewards.weights={accuracy: 1.0, format: 0.2, consistency: 0.0, kl_consistency: 0.0}"}
LATENCY_S, IN_FLIGHT, STUB_GROUPS = 0.8, 8, 24


@ray.remote(concurrency_groups={"health": 1})
class StubEngine:
    """Answers every request after LATENCY_S seconds: half of the answers right, so that every group is useful."""

    def __init__(self, model_path: str, config: Any, log: Path | None = None) -> None:
        tokenizer = load_processor(model_path).tokenizer
        self._texts = [f"<think>it is</think><answer>{letter}</answer>" for letter in "ABCD"]
        self._tokens = [(*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in self._texts]
        self._version = 0

    async def ready(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group="health")
    async def ping(self) -> int:
        return os.getpid()

    async def generate(self, request: Any, clip: Any) -> tuple[Rollout, ...]:
        await asyncio.sleep(LATENCY_S)
        return tuple(
            Rollout(request.sample_id, request.attempt_id, request.branch, clip.content_hash, i, request.sampling,
                    self._tokens[i % 4], self._texts[i % 4], (-0.5,) * len(self._tokens[i % 4]), self._version, "stop")
            for i in range(request.n))

    async def connect(self, init_info: Any) -> None:
        pass

    async def start_weight_update(self) -> None:
        pass

    async def update_weights(self, update_info: Any) -> None:
        pass

    async def finish_weight_update(self, version: int, vision_changed: bool) -> None:
        self._version = version


def measure(name: str, options: argparse.Namespace, *overrides: str) -> dict[str, float]:
    """Run the job; returns medians over its later steps of step time and phases, in seconds, and idle shares."""
    return medians(later_steps(name, options, *overrides))


def later_steps(name: str, options: argparse.Namespace, *overrides: str) -> list[dict[str, Any]]:
    """Run the job; returns the metrics of the steps after the first ones."""
    shutil.rmtree(options.output / name, ignore_errors=True)
    config = load_config(tgrpo.TGRPOJobConfig, "@demo", [
        f"data.train={options.data / 'train.jsonl'}", "evaluation.manifest=null", f"output={options.output}", f"name={name}",
        f"steps={options.steps}", "learner.threads=1", "tracking.tensorboard=false", *overrides])
    tgrpo.run(config)
    return [row for row in read_metrics(options.output / name / "metrics.jsonl") if row["step"] > WARM_UP]


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("seconds_per_step", "time/rollout", "time/learn", "time/sync", "time/record", "idle/trainer", "idle/rollout")
    return {key: statistics.median(row[key] for row in rows) for key in keys}


def compare_rewards(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of the synchronous run without and with the consistency rewards, over two runs of each."""
    rows: dict[str, list[dict[str, Any]]] = {"plain": [], "compared": []}
    for number, kind in enumerate(("plain", "compared", "compared", "plain")):
        rows[kind] += later_steps(f"{kind}-{number}", options, REWARDS[kind])
    return medians(rows["plain"]), medians(rows["compared"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), help="folder of the embedded data set")
    parser.add_argument("--output", type=Path, default=Path("runs/step-breakdown"), help="folder for the runs")
    parser.add_argument("--steps", type=int, default=15, help="steps of each run")
    options = parser.parse_args()
    synchronous = measure("staleness-0", options)
    overlapped = measure("staleness-1", options, "max_staleness=1")
    plain, compared = compare_rewards(options)
    session.GroupSampler = functools.partial(GroupSampler, engine_class=StubEngine)
    stub = measure("stub", options, "max_staleness=1", f"groups_per_step={STUB_GROUPS}", "tgrpo.contrast=off",
                   f"workers.max_groups_in_flight={IN_FLIGHT}")
    known = LATENCY_S * STUB_GROUPS / IN_FLIGHT
    for name, found in (("max_staleness 0", synchronous), ("max_staleness 1", overlapped),
                        ("without consistency rewards", plain), ("with consistency rewards", compared),
                        (f"stub engines, rollout {known:.1f} s", stub)):
        print(f"{name}: step {found['seconds_per_step']:.2f} s = rollout {found['time/rollout']:.2f} + learn "
              f"{found['time/learn']:.2f} + sync {found['time/sync']:.2f} + record {found['time/record']:.2f}; trainer idle "
              f"{found['idle/trainer']:.0%}, rollout idle {found['idle/rollout']:.0%}")
    longer = max(synchronous["time/rollout"], synchronous["time/learn"])
    print(json.dumps({
        "step_over_max_0": round(synchronous["seconds_per_step"] / longer, 3),
        "step_over_max_1": round(overlapped["seconds_per_step"] / longer, 3),
        "stub_step_over_max": round(stub["seconds_per_step"] / max(known, stub["time/learn"]), 3),
        "reward_share": round(compared["seconds_per_step"] / plain["seconds_per_step"] - 1, 3)}))


if __name__ == "__main__":
    main()
