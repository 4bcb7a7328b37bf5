"""Clips/s of a victim that attackers train against, over those of its bare batched forward pass; and their steps/s.

    python benchmarks/video_attack.py                  # some ten minutes on two quiet cores
    python benchmarks/video_attack.py --parts small    # one minute

The victim is torchvision's r3d_18 with random weights: 16 frames of 112x112, batches of 8, one thread. Bare, the network is
given a batch of normalised floats. Through the environment a round is a whole iteration of training: 8 attacks at once in an
RLlib runner, whose policies decide for each clip, the victim behind its interface (uint8 clips are sent, sized, normalised),
every query in the ledger, and PPO's learning. Rounds alternate and have as many clips; ratios are those of medians, and all
processes have the same priority.

- `ratio`: a `VictimPool`, whose victim is a Ray process, asked by a runner in another one; `env_steps_per_s` are its steps,
  of one query each, learning included.
- `local_ratio`: a `LocalPool`, with runner and victim in the driver.
- `cpu_ratio`: processor time of a bare clip over that of a pool's clip, all its processes added up. Other work on the machine
  moves it less.
- `small_steps_per_s`: of training against a `cnn3d` of 8 frames of 56x56 in a `VictimPool`, where environment, policies and
  learning are most of the work; with the runner in the driver, and as a process of its own.

Results to expect on two quiet cores: ratios of 0.9 or more, one r3d_18 clip a second, and 100 steps/s of the small victim.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch

from squall.actors.attacker_algorithm import AttackerAlgorithm
from squall.actors.attacker_training import PURPOSE, AttackerTrainingConfig, env_maker
from squall.actors.cluster import start_ray, stop_ray
from squall.actors.victim_config import AskingConfig
from squall.actors.victim_local import LocalPool
from squall.actors.victim_pool import VictimPool, VictimPoolConfig
from squall.actors.victim_sources import ClassifierSource
from squall.algorithms.video_attack.config import AttackConfig
from squall.platform.classifiers import ClassifierConfig

LARGE, SMALL = (16, 112, 112, 3), (8, 56, 56, 3)
CLASSES = tuple("abcdefghij")
CLIPS = 16
PARTS = ("victim", "small")


@dataclass(frozen=True)
class Spent:
    """What some clips took."""

    clips: int
    steps: int
    """Clips less the clean ones that attacks begin with."""
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Side:
    """Attackers that train against a pool of victims."""

    pool: Any
    algorithm: AttackerAlgorithm
    processes: list[int]
    """Of victims, ledger and runners, beside the driver."""

    def train(self) -> Spent:
        """One iteration; every clip is in the ledger."""
        before, cpu = self._asked(), self._cpu_seconds()
        done = self.algorithm.iterate(1, 0)
        assert not isinstance(done, str), done
        return Spent(self._asked() - before, done.steps, done.seconds, self._cpu_seconds() - cpu)

    def _asked(self) -> int:
        return self.pool.tally([PURPOSE]).purposes[PURPOSE]

    def _cpu_seconds(self) -> float:
        return time.process_time() + sum(sum(psutil.Process(process).cpu_times()[:2]) for process in self.processes)


def r3d_18(folder: Path) -> tuple[ClassifierSource, torch.nn.Module]:
    """As a victim, with random weights, and bare."""
    from safetensors.torch import save_file
    from torchvision.models.video import r3d_18

    torch.manual_seed(0)
    module = r3d_18(num_classes=len(CLASSES)).eval()
    save_file(module.state_dict(), folder / "r3d_18.safetensors")
    return ClassifierSource.of("r3d_18", ClassifierConfig(kind="torchvision", weights=folder / "r3d_18.safetensors",
                                                          classes=CLASSES)), module


def cnn3d(folder: Path) -> ClassifierSource:
    """With random weights."""
    from squall.platform.image_classifiers import save_image_classifier
    from squall.platform.networks import NetworkConfig, build_network

    torch.manual_seed(0)
    network, shape, half = NetworkConfig(architecture="cnn3d"), (3, *SMALL[:3]), (0.5,) * 3
    save_image_classifier(folder / "cnn3d", build_network(network, shape, len(CLASSES), half, half).eval(), network, CLASSES,
                          shape, half, half, {})
    return ClassifierSource.of(str(folder / "cnn3d"))


@contextmanager
def training(source: ClassifierSource, shape: tuple[int, ...], folder: Path, batch: int, steps: int, runners: int,
             local: bool = False) -> Iterator[Side]:
    """Attackers that are about to train on clips of noise, `batch` at once, with runners of their own or in the driver."""
    clips = np.random.default_rng(0).integers(0, 256, (CLIPS, *shape), np.uint8)
    config = VictimPoolConfig(asking=AskingConfig(max_batch=batch))
    name = f"{folder.name}-{runners}-{'local' if local else 'pool'}-{shape[0]}"
    ledger = folder / name / "ledger.sqlite"
    pool: Any = LocalPool(config, source, ledger) if local else VictimPool(config, source, ledger, name)
    pool.start()
    victim = pool.client(PURPOSE)
    attack = AttackConfig(block=2, cell=shape[1] // 4, max_queries=100)
    learning = AttackerTrainingConfig(steps_per_iteration=steps, minibatch_steps=min(64, steps), clips_at_once=batch,
                                      runners=runners)
    algorithm = AttackerAlgorithm(learning, env_maker(attack, learning),
                                  [(clip, int(row.argmax())) for clip, row in zip(clips, victim.ask(clips), strict=True)],
                                  victim.ask, folder / name)
    runner_ids = ray.get([runner.apply.remote(lambda _: os.getpid()) for runner in algorithm.runners()])
    try:
        yield Side(pool, algorithm, [*getattr(pool, "processes", {}).values(), *runner_ids])
    finally:
        algorithm.stop()
        pool.stop()


def bare(module: torch.nn.Module, batch: int, clips: int) -> Spent:
    """Batches of clips in memory through the network."""
    frames, height, width, _ = LARGE
    pixels, started, cpu = torch.randn(batch, 3, frames, height, width), time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for _ in range(clips // batch):
            module(pixels)
    done = clips // batch * batch
    return Spent(done, done, time.perf_counter() - started, time.process_time() - cpu)


def compare(sides: dict[str, Callable[[], Spent]], rounds: int) -> dict[str, list[Spent]]:
    """What every round but the first took, which warms up; sides take turns."""
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(1 + rounds):
        for name in list(sides)[::1 if number % 2 else -1]:
            spent = sides[name]()
            print(f"round {number}, {name}: {spent.clips} clips, {spent.clips / spent.seconds:.2f} clips/s, "
                  f"{1000 * spent.cpu_seconds / spent.clips:.1f} ms of processor time a clip, load {os.getloadavg()[0]:.0f}",
                  flush=True)
            found[name] += [spent] if number else []
    return found


def clips_per_s(spent: list[Spent]) -> float:
    return statistics.median(one.clips / one.seconds for one in spent)


def steps_per_s(spent: list[Spent]) -> float:
    return statistics.median(one.steps / one.seconds for one in spent)


def processor_s(spent: list[Spent]) -> float:
    return statistics.median(one.cpu_seconds / one.clips for one in spent)


def measure_victim(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """r3d_18 through the environment over its bare forward."""
    source, module = r3d_18(folder)
    asked = source, LARGE, folder, options.batch, options.clips
    with training(*asked, runners=1) as pool, training(*asked, runners=0, local=True) as local:
        found = compare({"bare": lambda: bare(module, options.batch, options.clips), "pool": pool.train, "local": local.train},
                        options.rounds)
    speeds = {name: clips_per_s(spent) for name, spent in found.items()}
    return {"ratio": round(speeds["pool"] / speeds["bare"], 3), "env_steps_per_s": round(steps_per_s(found["pool"]), 2),
            "local_ratio": round(speeds["local"] / speeds["bare"], 3),
            "cpu_ratio": round(processor_s(found["bare"]) / processor_s(found["pool"]), 3)}


def measure_small(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of training against a victim that costs little."""
    asked = cnn3d(folder), SMALL, folder, options.batch, options.small_steps
    with training(*asked, runners=0) as driver, training(*asked, runners=1) as process:
        found = compare({"runner in the driver": driver.train, "runner of its own": process.train}, options.rounds)
    return {"small_steps_per_s": [round(steps_per_s(spent), 1) for spent in found.values()]}


def main() -> None:
    """Run the parts asked for and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips of a batch, and attacks at once")
    parser.add_argument("--clips", type=int, default=32, help="of a round of the large victim")
    parser.add_argument("--small-steps", type=int, default=512, help="of a round of the small victim")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, after one that warms up")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    options = parser.parse_args()
    start_ray(num_cpus=4)
    os.nice(int(os.environ.get("RAY_worker_niceness", 15)))  # that of Ray's processes
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            found |= {"victim": measure_victim, "small": measure_small}[part](Path(folder), options)
    stop_ray()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
