"""Do attackers learn across clips? Trained ones against random cells, on held-out clips of a victim without a network.

    python benchmarks/learned_attackers.py                  # about two minutes on one core
    python benchmarks/learned_attackers.py --seeds 0 1 2

Every clip has one red cell of a 4 x 4 grid, elsewhere in each; the victim looks how red the reddest cell is. Attackers who
learn that, find it in clips that they never saw. Prints mean queries (failures at the budget) and the share fooled; the
last line is one JSON object with each one's queries over those of random cells, averaged over seeds. Results to expect: docs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from squall.actors.attacker_training import AttackerTrainingConfig, env_maker, train_attackers
from squall.actors.cluster import start_ray, stop_ray
from squall.algorithms.video_attack.actions import AGENTS
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Choose, Episode, play
from squall.platform.runs import RunDirectory

SIDE, CELL, FRAMES, RED = 32, 8, 8, 0
ATTACK = AttackConfig(block=2, cell=CELL, distortion="dead_pixel", max_queries=40, lam2=0.5)
ATTACKERS = {"pair": {}, "pair, own critics": {"centralised_critic": False},
             "spatial alone": {"agents": "spatial", "companion": "fixed"}, "temporal alone": {"agents": "temporal"}}


def red_cell_clips(count: int, seed: int) -> list[tuple[np.ndarray, int]]:
    """Dark clips, uint8 (8, 32, 32, 3), each with one bright red cell."""
    generator = np.random.default_rng(seed)
    clips = generator.integers(20, 40, (count, FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    for clip, place in zip(clips, generator.integers(0, (SIDE // CELL)**2, count), strict=True):
        row, column = divmod(int(place), SIDE // CELL)
        clip[:, row * CELL:(row + 1) * CELL, column * CELL:(column + 1) * CELL] = [220, 30, 30]
    return [(clip, RED) for clip in clips]


def victim(clips: np.ndarray) -> np.ndarray:
    """Probabilities (n, 2): whether the reddest cell is red, on average over frames."""
    cells = clips.reshape(len(clips), FRAMES, SIDE // CELL, CELL, SIDE // CELL, CELL, 3).mean((3, 5))
    redness = (cells[..., 0] - cells[..., 2]).max((2, 3)).mean(1)
    red = 1 / (1 + np.exp(-(redness - 100) / 15))
    return np.stack([red, 1 - red], axis=1)


def random_cells(seed: int) -> Choose:
    """Whatever is allowed."""
    generator = np.random.default_rng(seed)

    def choose(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        spatial, temporal = (np.array([generator.choice(np.flatnonzero(mask)) for mask in episode.action_masks[agent]])
                             for agent in AGENTS)
        return spatial, temporal

    return choose


def measured(name: str, seed: int, choose: Callable[[int], Choose]) -> float:
    """Print and return mean queries over 60 held-out clips."""
    outcomes = [play(Episode(clip, label, ATTACK, number), victim, choose(number))
                for number, (clip, label) in enumerate(red_cell_clips(60, 99))]
    queries = [outcome.queries if outcome.fooled else ATTACK.max_queries for outcome in outcomes]
    print(f"{name:26} seed {seed}: {mean(queries):5.1f} queries, median {np.median(queries):4.1f}, "
          f"fooled {mean(outcome.fooled for outcome in outcomes):.0%}", flush=True)
    return mean(queries)


def main() -> None:
    """Train every kind of attackers with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--iterations", type=int, default=20, help="of 512 queries each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_ray()
    random = measured("random cells", 0, random_cells)
    found: dict[str, list[float]] = {}
    for name, keys in ATTACKERS.items():
        for seed in options.seeds:
            config = AttackerTrainingConfig(iterations=options.iterations, checkpoint_every=1000, runners=0, seed=seed, **keys)
            with tempfile.TemporaryDirectory() as folder:
                policy = train_attackers(config, env_maker(ATTACK, config), red_cell_clips(40, 1), victim,
                                         RunDirectory.create(Path(folder), "attackers"), lambda _: None)
            found.setdefault(name, []).append(measured(name, seed, policy.chooser))
            found.setdefault(f"{name}, greedy", []).append(
                measured(f"{name}, greedy", seed, lambda number, own=policy: own.chooser(number, greedy=True)))
    stop_ray()
    print(json.dumps({name: round(mean(queries) / random, 3) for name, queries in found.items()}))


if __name__ == "__main__":
    main()
