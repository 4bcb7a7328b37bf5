"""Training of the attackers: it learns, goes on where it stopped, and survives dead runners, absent victims and bad numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cell_victim as victims
import noting_victim
import numpy as np
import pytest
import ray
import torch
from cell_victim import SentAway, cell_victim
from noting_victim import NotingSource
from spot_victim import noise_clip

from squall.actors.attacker_training import (
    PURPOSE,
    AttackerTrainingConfig,
    Iteration,
    env_maker,
    iterate,
    train_attackers,
    training_demands,
)
from squall.actors.attackers import about_attacker, load_attacker
from squall.actors.query_ledger import QueryLedger
from squall.actors.resources import Demand
from squall.actors.victim_core import PROBE
from squall.actors.victim_pool import VictimPool, VictimPoolConfig
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Choose, Episode, play
from squall.algorithms.video_attack.policy import AttackerPolicy, weights
from squall.platform.config import validate
from squall.platform.errors import ConfigError, SquallError
from squall.platform.runs import RunDirectory

pytestmark = pytest.mark.cluster
for helper in (victims, noting_victim):  # runners and victims cannot import what stands among the tests
    ray.cloudpickle.register_pickle_by_value(helper)

ATTACK = AttackConfig(block=2, cell=8, max_queries=60, max_steps=59)
CLIPS = [(noise_clip(seed), 0) for seed in range(24)]
HELD_OUT = CLIPS[12:]


def training(**keys: Any) -> AttackerTrainingConfig:
    return AttackerTrainingConfig(**{"steps_per_iteration": 256, "runners": 0, "iterations": 1} | keys)


def run_of(folder: Path) -> RunDirectory:
    return RunDirectory.create(folder, "attack", "run", resume=(folder / "run").exists())


def trained(folder: Path, config: AttackerTrainingConfig, told: Callable[[Iteration], Any] = lambda _: None,
            **keys: Any) -> AttackerPolicy:
    return train_attackers(config, env_maker(ATTACK, config), CLIPS[:12], cell_victim, run_of(folder), told, **keys)


def queries(choose: Callable[[int], Choose]) -> float:
    """Mean over held-out clips, failures at the budget."""
    outcomes = [play(Episode(clip, label, ATTACK, 7), cell_victim, choose(seed))
                for seed in range(2) for clip, label in HELD_OUT]
    return float(np.mean([outcome.queries if outcome.fooled else ATTACK.max_queries for outcome in outcomes]))


def random_choice(seed: int) -> Choose:
    generator = np.random.default_rng(seed)

    def choose(episode: Episode) -> tuple[list[int], list[int]]:
        spatial, temporal = ([generator.choice(np.flatnonzero(mask)) for mask in episode.action_masks[agent]]
                             for agent in ("spatial", "temporal"))
        return spatial, temporal

    return choose


def test_trained_attackers_need_fewer_queries_than_random_ones_on_clips_they_never_saw(ray_cluster: object,
                                                                                       tmp_path: Path) -> None:
    told: list[Iteration] = []
    policy = trained(tmp_path, training(iterations=9, checkpoint_every=99), told.append, about={"grid": 8})
    assert [one.number for one in told] == list(range(1, 10))
    assert all(one.steps >= 256 and one.infra_errors == one.failures == 0 for one in told)
    assert {"attackers/success", "attackers/queries_per_episode", "spatial/entropy", "temporal/vf_loss"} <= set(told[0].metrics)
    learned, random = queries(policy.chooser), queries(random_choice)
    assert learned < 0.7 * random
    folder = tmp_path / "run" / "attackers"
    assert queries(load_attacker(folder).chooser) == learned
    assert about_attacker(folder) == {"grid": 8}


def test_training_goes_on_from_its_checkpoint_and_another_run_from_it(ray_cluster: object, tmp_path: Path) -> None:
    told: list[Iteration] = []

    def stop(one: Iteration) -> bool:
        told.append(one)
        return False

    first = weights(trained(tmp_path, training(iterations=9), stop))
    latest = run_of(tmp_path).latest_checkpoint()
    assert latest is not None and latest.name == "step-000001" and (latest / "attackers" / "attackers.json").is_file()
    same = weights(trained(tmp_path, training(iterations=1), told.append))
    assert len(told) == 1 and all(torch.equal(same[name], tensor) for name, tensor in first.items())
    further = weights(trained(tmp_path / "other", training(iterations=2), told.append, start_from=latest))
    assert [one.number for one in told] == [1, 2] and 256 <= told[1].steps < 512
    assert not any(torch.equal(further[name], tensor) for name, tensor in first.items() if name.endswith("near.weight"))
    assert [path.name for path in run_of(tmp_path / "other").finished_checkpoints()] == ["step-000002"]


IN_A_PROCESS = """
import sys
from pathlib import Path
import ray, torch
torch.set_num_threads(1)
ray.init(log_to_driver=False)
from tests.actors.test_attacker_training import trained, training, weights
made = weights(trained(Path(sys.argv[1]), training(steps_per_iteration=64)))
print("weights", sorted((name, tensor.double().sum().item()) for name, tensor in made.items()))
"""


def test_processes_that_hash_names_differently_train_the_same_attackers(ray_cluster: object, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address,
                                "PYTHONPATH": f"{root}:{root / 'tests' / 'helpers'}"}
    made = [subprocess.Popen([sys.executable, "-c", IN_A_PROCESS, str(tmp_path / seed)], text=True, stdout=subprocess.PIPE,
                             env=environment | {"PYTHONHASHSEED": seed}) for seed in ("0", "1")]  # in which sets differ
    first, second = ([line for line in process.communicate(timeout=240)[0].splitlines() if line.startswith("weights")]
                     for process in made)
    assert len(first) == 1 and first == second


def test_a_checkpoint_of_other_networks_is_refused(ray_cluster: object, tmp_path: Path) -> None:
    trained(tmp_path, training(steps_per_iteration=64))
    with pytest.raises(SquallError, match=r"step-000001/rllib: attackers cannot go on from here \(.*size mismatch"):
        trained(tmp_path, training(steps_per_iteration=64, width=8, iterations=2))


def test_an_agent_is_trained_alone_and_the_same_again_in_a_thread_as_sweeps_do(ray_cluster: object, tmp_path: Path) -> None:
    config = training(agents="temporal", companion="fixed", steps_per_iteration=128)
    policy = trained(tmp_path, config)
    assert list(policy.actors) == ["temporal"] and policy.companion == "fixed"
    with ThreadPoolExecutor(1) as thread:
        again = thread.submit(trained, tmp_path / "again", config).result()
    assert all(torch.equal(weights(again)[name], tensor) for name, tensor in weights(policy).items())


def test_a_runner_that_cannot_start_says_why(ray_cluster: object, tmp_path: Path) -> None:
    config = training(runners=1)
    with pytest.raises(SquallError, match="attackers: no runner could start: ModuleNotFoundError: No module named"):
        train_attackers(config, env_maker(ATTACK, config), CLIPS, _stays_here, run_of(tmp_path), lambda _: None)


def _stays_here(clips: np.ndarray) -> np.ndarray:
    return cell_victim(clips)


def test_a_bad_victim_is_refused_before_training(ray_cluster: object, tmp_path: Path) -> None:
    config = training(runners=1)
    with pytest.raises(SquallError, match=r"the victim returned shape \(1, 3, 1\) for 1 clips"):
        train_attackers(config, env_maker(ATTACK, config), CLIPS, lambda clips: np.ones((len(clips), 3, 1)), run_of(tmp_path),
                        lambda _: None)


@dataclass
class Watched:
    """Training with a runner of its own, whose victims on a pool keep count and can be sent away."""

    folder: Path
    source: NotingSource
    pool: VictimPool
    algorithm: Any

    @property
    def runner(self) -> int:
        return ray.get(self.algorithm.runners()[0].apply.remote(lambda _: os.getpid()))

    def wait_for(self, passes: int) -> None:
        deadline = time.monotonic() + 60
        while self.source.passes < passes:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture(scope="module")
def watched(ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    from squall.actors.attacker_algorithm import AttackerAlgorithm

    folder = tmp_path_factory.mktemp("watched")
    (folder / "model").mkdir()
    source = NotingSource(folder / "model")
    pool = VictimPool(VictimPoolConfig(cpus=0.5), source, folder / "ledger.sqlite", folder.name)
    pool.start()
    config = training(runners=1, runner_cpus=0.5, steps_per_iteration=128)
    attack = AttackConfig(block=2, cell=16, distortion="dead_pixel", max_queries=20)
    clips = [(np.full((4, 32, 32, 3), light, np.uint8), 1) for light in (120, 150)]  # bright, until half of it is dead
    victim = SentAway(pool.client(PURPOSE).ask, folder)
    algorithm = AttackerAlgorithm(config, env_maker(attack, config), clips, victim, folder)
    yield Watched(folder, source, pool, algorithm)
    algorithm.stop()
    pool.stop()


def test_no_empty_iteration_counts_while_the_victim_is_away(watched: Watched) -> None:
    before = weights(watched.algorithm.policy())
    (watched.folder / "away").touch()
    with pytest.raises(SquallError, match="attackers: iteration 2 failed 2 times in a row: no step was sampled.*"
                                          "VictimUnavailable: the victim is away"):
        iterate(watched.algorithm, training(max_failures=1), 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(watched.algorithm.policy()).items())
    (watched.folder / "away").unlink()
    assert iterate(watched.algorithm, training(max_failures=60), 2).steps >= 128


def test_weights_that_are_not_finite_are_put_back(watched: Watched) -> None:
    algorithm = watched.algorithm
    before = weights(algorithm.policy())
    critic = algorithm._ppo.learner_group._learner.module["spatial"].critic
    with torch.no_grad():
        critic.value[0].bias.fill_(float("nan"))
    assert algorithm.iterate(4, 0) == "a loss or a weight was not finite; learning goes on from the weights before"
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(algorithm.policy()).items())
    assert torch.isfinite(critic.value[0].bias).all()
    assert isinstance(algorithm.iterate(4, 1), Iteration)


def test_every_pass_of_a_training_is_in_the_ledger_though_runner_and_victim_are_killed(watched: Watched) -> None:
    runner, before = watched.runner, watched.source.passes
    with ThreadPoolExecutor(1) as thread:
        last = thread.submit(iterate, watched.algorithm, training(max_failures=60), 5)
        watched.wait_for(before + 20)
        os.kill(watched.pool.processes["victim-0"], signal.SIGKILL)
        watched.wait_for(before + 40)
        os.kill(runner, signal.SIGKILL)
        done = last.result(timeout=120)
    assert done.steps >= 128 and done.failures > 0
    assert watched.runner != runner
    watched.pool.stop()  # what was in the model when it was killed is entered now
    tally, passes = watched.pool.tally([PURPOSE]), watched.source.passes
    assert tally.begun == tally.entered == passes > before + 128 + 30
    with closing(QueryLedger(watched.folder / "ledger.sqlite")) as ledger:
        assert ledger.total().queries == passes
        assert ledger.total(PURPOSE).queries == tally.purposes[PURPOSE] == passes - tally.lost - tally.purposes[PROBE]


def test_what_training_reserves_and_refuses() -> None:
    assert training_demands(training(runners=3, runner_cpus=0.5)) == (Demand("attacker", 3, 0.5),)
    assert training_demands(training()) == ()
    with pytest.raises(ConfigError, match="minibatch_steps 64 is more than steps_per_iteration 32"):
        validate(AttackerTrainingConfig, {"steps_per_iteration": 32}, where="training")
