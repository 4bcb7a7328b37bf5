"""Scores groups of answers. A reward that fails is a failure with a message, never a reward of 0."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from squall.actors.cluster import set_threads
from squall.algorithms.rewards import RewardConfig, load_rewards, score_group
from squall.platform.records import Branch, CorruptionSpec, Rollout, SampledGroup, ScoredGroup, VideoSample


@ray.remote(max_restarts=-1, max_task_retries=-1)
class RewardWorker:
    """Stateless, so Ray may restart it and run a call again."""

    def __init__(self, cpus: float, config: RewardConfig) -> None:
        set_threads(cpus)
        self._config = config
        load_rewards(config)

    def ready(self) -> bool:
        """Answer once the worker is up."""
        return True

    def score(self, group_id: str, sample: VideoSample, prompt: str, spec: CorruptionSpec | None,
              clip_hashes: Mapping[Branch, str], *branches: tuple[Rollout, ...]) -> ScoredGroup:
        """Put the branches of a question together and compute every configured reward."""
        rollouts = tuple(rollout for branch in branches for rollout in branch)
        return score_group(SampledGroup(group_id, sample, prompt, spec, clip_hashes, rollouts), self._config)
