"""PPO of RLlib's new API stack for the attackers: built, trained an iteration at a time, saved and restored.

Only whoever trains imports this file: it loads RLlib.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.tune.registry import ENV_CREATOR, _global_registry, register_env

from squall.actors.attacker_config import AttackerTrainingConfig, Iteration, Labelled, MakeEnv
from squall.actors.attacker_env import COUNTS, AttackerEnv, EpisodeCounts
from squall.actors.attacker_modules import AttackerLearner, module_specs
from squall.actors.attacker_runner import AttackerRunner
from squall.actors.cluster import outside_placement_group
from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.policy import Actor, AttackerPolicy
from squall.platform.errors import SquallError, cause
from squall.platform.seeds import derive_seed

_HERE: dict[str, Callable[[Any], AttackerEnv]] = {}
"""What makes the environments that stay in this process, by name. RLlib pickles what is registered with itself, clips and
victim and all, and a victim of this process cannot be pickled."""
LOSSES = ("policy_loss", "vf_loss", "vf_explained_var", "entropy")


class AttackerAlgorithm:
    """RLlib's PPO with one module for each trained agent."""

    def __init__(self, config: AttackerTrainingConfig, make_env: MakeEnv, clips: Sequence[Labelled], ask: Ask, scratch: Path,
                 begun: int = 0) -> None:
        """Try the environment here, where its errors can be read, and start the runners.

        Args:
            scratch: folder for what RLlib writes while it runs.
            begun: iterations before this start, so that clips are not attacked in the same order again.

        Raises:
            SquallError: what the environment or the victim raises.
        """
        torch.set_num_threads(1)  # networks this small: threads wait for each other, on a busy machine ten times as long
        self._config, self._begun = config, begun
        self._make_here = partial(_make, make_env, list(clips), ask, config, begun)
        self._name = f"squall-attackers-{secrets.token_hex(8)}"
        self._first = self._try_here()
        if config.runners:
            register_env(self._name, partial(_make, make_env, ray.put(list(clips)), ask, config, begun))
        else:
            _HERE[self._name] = self._make_here
            register_env(self._name, partial(_make_here, self._name))
        with _quiet() as heard, outside_placement_group():
            try:
                with _stderr_into(scratch / "start.log"):
                    self._ppo = _ScratchPPO(self._settings(), scratch)
            except (RayError, IndexError) as error:  # the latter where it looks for spaces among no runners
                raise SquallError(f"attackers: no runner could start: {heard.last or cause(error)}") from error
        self._steps, self._good = 0.0, self._ppo.learner_group.get_state()

    def iterate(self, number: int, failures: int) -> Iteration | str:
        """One iteration, or what was wrong with it; weights that came out of a wrong one are put back."""
        start = time.monotonic()
        try:
            with _quiet() as heard:
                result = self._ppo.train()
        except RayError as error:
            return cause(error)
        taken = _number(result.get("env_runners", {}).get("num_env_steps_sampled_lifetime")) - self._steps
        if not taken > 0:  # NaN too
            return f"no step was sampled: runners died or were late, or the victim failed ({heard.last or 'no error was seen'})"
        self._steps += taken
        losses = {agent: {name: _number(result["learners"].get(agent, {}).get(name)) for name in LOSSES}
                  for agent in self._config.trained}
        state = self._ppo.learner_group.get_state()
        if not (_finite(losses) and _finite(_weights(state))):
            self._put_back()
            return "a loss or a weight was not finite; learning goes on from the weights before"
        self._good = state
        told = result["env_runners"].get("attack", {})
        counts = {name: np.nan_to_num(_number(told.get(name, 0))) for name in COUNTS}  # NaN where, after a restart, none ended
        return Iteration(number=number, steps=int(taken), failures=failures, seconds=time.monotonic() - start, losses=losses,
                         returns=float(counts.pop("returns")), **{name: int(value) for name, value in counts.items()})

    def policy(self) -> AttackerPolicy:
        """The attackers as they are, apart from RLlib."""
        actors = {agent: Actor(self._first.shapes[agent], self._config.width) for agent in self._config.trained}
        for agent, state in _weights(self._ppo.learner_group.get_state()).items():
            actors[agent].load_state_dict({name.removeprefix("actor."): torch.tensor(value) for name, value in state.items()
                                           if name.startswith("actor.")})
        return AttackerPolicy(actors, self._config.companion)

    def save(self, folder: Path) -> None:
        """Write RLlib's own files: weights, optimiser, counters. Some are pickled."""
        self._ppo.save_to_path(str(folder.absolute()))

    def restore(self, folder: Path) -> None:
        """Take up what `save` wrote; pickles are opened, so it must be the user's own.

        Raises:
            SquallError: it is damaged, or of other networks.
        """
        try:
            with _quiet():
                self._ppo.restore_from_path(str(folder.absolute()))
        except Exception as error:  # whatever RLlib and pickle meet in the files
            raise SquallError(f"{folder}: attackers cannot go on from here ({cause(error)}); it is damaged, or was made with "
                              "another width, critic, grid or choices") from error
        self._steps = _number(self._ppo.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"), default=0))
        self._good = self._ppo.learner_group.get_state()

    def diagnose(self) -> str:
        """Why no environment can be stepped, as far as it shows here; an empty string where it does not."""
        try:
            env = self._try_here()
            env.step({agent: space.sample() for agent, space in env.action_spaces.items()})
        except Exception as error:  # whatever a runner would have met
            return f": {type(error).__name__}: {error}"
        return ""

    def runners(self) -> list[Any]:
        """The runners' actors, for tests and tools that watch or kill them."""
        return list(self._ppo.env_runner_group._worker_manager.actors().values())

    def stop(self) -> None:
        """End the runners."""
        self._ppo.stop()
        _HERE.pop(self._name, None)
        _global_registry.unregister(ENV_CREATOR, self._name)

    def _try_here(self) -> AttackerEnv:
        env = self._make_here({})
        env.reset()
        return env

    def _put_back(self) -> None:
        present = self._ppo.learner_group.get_state()["learner"]["weights_seq_no"]
        newer = {**self._good["learner"], "weights_seq_no": present + 1}  # what is not newer is taken by nobody
        self._ppo.learner_group.set_state({**self._good, "learner": newer})
        self._ppo.env_runner_group.sync_weights(from_worker_or_learner_group=self._ppo.learner_group, inference_only=True)

    def _settings(self) -> PPOConfig:
        config = self._config
        return (
            PPOConfig()
            .environment(self._name, disable_env_checking=True)
            .env_runners(env_runner_cls=AttackerRunner, num_env_runners=config.runners,
                         num_envs_per_env_runner=config.clips_at_once, num_cpus_per_env_runner=config.runner_cpus,
                         sample_timeout_s=config.sample_timeout_s)
            .fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=1.0)
            .learners(learner_class=AttackerLearner, num_learners=0, num_gpus_per_learner=0)
            .training(lr=config.learning_rate, gamma=config.discount, lambda_=config.gae_lambda, clip_param=config.clip_ratio,
                      entropy_coeff=config.entropy, vf_loss_coeff=0.5, vf_clip_param=math.inf, use_kl_loss=False, grad_clip=0.5,
                      grad_clip_by="global_norm", train_batch_size_per_learner=config.steps_per_iteration,
                      minibatch_size=config.minibatch_steps, num_epochs=config.epochs)
            .multi_agent(policies=set(config.trained), policy_mapping_fn=_own_policy)
            .rl_module(rl_module_spec=module_specs(self._first, config.width))
            .callbacks(EpisodeCounts)
            .debugging(seed=derive_seed(config.seed, "rllib", self._begun), log_level="ERROR")
            .reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=None))


class _ScratchPPO(PPO):
    """PPO that keeps its log folder inside the run, not in the user's home."""

    def __init__(self, config: PPOConfig, scratch: Path) -> None:
        self._scratch = scratch
        super().__init__(config)

    def _setup_logdir(self) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._logdir = str(self._scratch)


class _Heard(logging.Handler):
    """The last thing that RLlib logged: it goes on without its runners, and names their errors nowhere else."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last line of an error, which is its cause."""
        lines = [line.strip() for line in record.getMessage().splitlines() if line.strip()]
        self.last = (lines or [""])[-1][:300]


@contextmanager
def _quiet() -> Iterator[_Heard]:
    """Keep what RLlib says off the terminal: warnings of what is deprecated inside itself, and errors that it goes on from."""
    logger, heard = logging.getLogger("ray.rllib"), _Heard(logging.ERROR)
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [heard], False
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


@contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """Error output goes into a file: Ray's core warns there that runners get their settings by reference. RLlib keeps it for as
    long as they live."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _make(make_env: MakeEnv, clips: Any, ask: Ask, config: AttackerTrainingConfig, begun: int, context: Any) -> AttackerEnv:
    """An environment as RLlib asks for it; `clips` is the list or Ray's reference to it."""
    runner, number = (getattr(context, name, 0) for name in ("worker_index", "vector_index"))
    known = ray.get(clips) if isinstance(clips, ray.ObjectRef) else clips
    return AttackerEnv(make_env(known, ask, derive_seed(config.seed, "runner", runner, number, begun)),
                       config.centralised_critic)


def _make_here(name: str, context: Any) -> AttackerEnv:
    return _HERE[name](context)


def _own_policy(agent: str, episode: Any = None, **_: Any) -> str:
    return agent


def _weights(state: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """By agent and name, out of a learner group's state."""
    return state["learner"]["rl_module"]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _finite(values: Any) -> bool:
    return all(map(_finite, values.values())) if isinstance(values, Mapping) else bool(np.isfinite(values).all())
