"""Training of the attackers: PPO on RLlib's new API stack, one policy for each agent, over many clips of one victim.

Clips travel through the object store once. Every clip that is asked about is counted where it is answered: give a victim that
enters its queries under `PURPOSE`, apart from those of attacks. A checkpoint holds RLlib's own files (``rllib/``, pickled, so
another user's is never opened) and the attackers alone (``attackers/``, safetensors and JSON: whoever attacks needs no more).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squall.actors.attacker_config import (
    AttackerTrainingConfig,
    Iteration,
    Labelled,
    MakeEnv,
    env_maker,
    training_demands,
)
from squall.actors.attackers import save_attackers
from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.policy import AttackerPolicy
from squall.platform.errors import SquallError
from squall.platform.runs import RunDirectory, checkpoint_step

if TYPE_CHECKING:
    from squall.actors.attacker_algorithm import AttackerAlgorithm

__all__ = ["PURPOSE", "AttackerTrainingConfig", "Iteration", "MakeEnv", "env_maker", "iterate", "train_attackers",
           "training_demands"]

PURPOSE = "attacker_training"
"""Under which the query ledger counts what training asks."""
ATTACKERS, RLLIB = "attackers", "rllib"
RETRY_AFTER_S = 1.0
"""Between a failed iteration and the next try, in which runners start again."""


def train_attackers(config: AttackerTrainingConfig, make_env: MakeEnv, clips: Sequence[Labelled], victim: Ask,
                    folder: RunDirectory, on_iteration: Callable[[Iteration], bool | None], *,
                    about: Mapping[str, Any] | None = None, start_from: Path | None = None) -> AttackerPolicy:
    """Train attackers, write checkpoints and at the end ``attackers/`` into the run directory, and return them.

    A run directory with checkpoints is gone on with from its latest one. With another number of runners the same seed gives
    other attackers: they learn from other draws.

    Args:
        make_env: such as `env_maker` returns; it travels to the runners.
        victim: is asked by every runner, so it travels too.
        on_iteration: is told of each iteration and may end the training, with a checkpoint, by returning False.
        about: plain JSON values that are written with the attackers, such as the attack's configuration.
        start_from: a checkpoint of another run to begin with.

    Raises:
        SquallError: what the first episode here raises, no runner could start, the checkpoint is damaged or of another
            configuration, or more iterations in a row failed than `max_failures`.
    """
    from squall.actors.attacker_algorithm import AttackerAlgorithm

    latest = folder.latest_checkpoint()
    source = latest or start_from
    begun = _owned_step(source) if source is not None else 0
    algorithm = AttackerAlgorithm(config, make_env, clips, victim, folder.path / "logs" / RLLIB, begun)
    try:
        if source is not None:
            algorithm.restore(source / RLLIB)
        number, wanted = begun, True
        while number < config.iterations and wanted:
            number += 1
            wanted = on_iteration(iterate(algorithm, config, number)) is not False
            if number % config.checkpoint_every == 0 or number == config.iterations or not wanted:
                _checkpoint(algorithm, folder, number, about or {})
        policy = algorithm.policy()
        save_attackers(policy, folder.path / ATTACKERS, about or {})
        return policy
    finally:
        algorithm.stop()


def _owned_step(checkpoint: Path) -> int:
    """The number of a checkpoint's last iteration. Raises SquallError for another user's, since it holds pickles."""
    RunDirectory.open(checkpoint.absolute().parents[1])
    return checkpoint_step(checkpoint)


def iterate(algorithm: AttackerAlgorithm, config: AttackerTrainingConfig, number: int) -> Iteration:
    """One iteration that went well; those that fail before it are done again."""
    problems: list[str] = []
    while len(problems) <= config.max_failures:
        found = algorithm.iterate(number, failures=len(problems))
        if isinstance(found, Iteration):
            return found
        problems.append(found)
        time.sleep(RETRY_AFTER_S)
    raise SquallError(f"attackers: iteration {number} failed {len(problems)} times in a row: {problems[-1]}"
                      f"{algorithm.diagnose()}")


def _checkpoint(algorithm: AttackerAlgorithm, folder: RunDirectory, number: int, about: Mapping[str, Any]) -> None:
    with folder.checkpoint(number) as checkpoint:
        algorithm.save(checkpoint / RLLIB)
        save_attackers(algorithm.policy(), checkpoint / ATTACKERS, about)
