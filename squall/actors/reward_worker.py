"""Scores groups of answers. A reward that fails is a failure with a message, never a reward of 0."""

from __future__ import annotations

import os
from pathlib import Path

import ray

from squall.actors.cluster import set_threads
from squall.actors.corruption_worker import Rendering
from squall.actors.logs import keep_log
from squall.algorithms.rewards import RewardConfig, load_rewards, score_group
from squall.platform.records import CorruptionSpec, Rollout, SampledGroup, ScoredGroup, VideoSample


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1},
            allow_out_of_order_execution=True)
class RewardWorker:
    """Stateless: Ray restarts it, and whoever asked asks again.

    A group whose answers are there does not wait for one that was announced before it.
    """

    def __init__(self, cpus: float, config: RewardConfig, log: Path | None = None) -> None:
        """`log` is the file that gets what the worker prints."""
        keep_log(log)
        set_threads(cpus)
        self._config = config
        load_rewards(config)

    def ready(self) -> int:
        """Returns the process id once the worker is up."""
        return os.getpid()

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Returns the process id, while a call is running too."""
        return os.getpid()

    def score(self, group_id: str, sample: VideoSample, prompt: str, spec: CorruptionSpec | None,
              rendering: Rendering, *branches: tuple[Rollout, ...]) -> ScoredGroup:
        """Put the branches of a question together and compute every configured reward."""
        rollouts = tuple(rollout for branch in branches for rollout in branch)
        return score_group(SampledGroup(group_id, sample, prompt, spec, rendering.clip_hashes, rollouts), self._config)
