"""Scores groups of answers. A reward or a judge that fails is a failure with a message, never a reward of 0."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr

from squall.actors.cluster import set_threads
from squall.actors.corruption_worker import Rendering
from squall.actors.judge_config import JudgeConfig
from squall.actors.judges import JudgeError, open_judge
from squall.actors.logs import keep_log
from squall.algorithms.judging import Verdict
from squall.algorithms.rewards import RewardConfig, load_rewards, score_group
from squall.platform.records import Clip, CorruptionSpec, Rollout, SampledGroup, ScoredGroup, VideoSample

CALLS_AT_ONCE = 16
"""Groups that a worker has at its judge at the same time, where that judge is somewhere else."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no group. Never a reward of 0."""

    reason: str
    """Short snake_case word under which the loss is counted."""
    message: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """A scored group, or why the judge left it without a score; and what the judge did meanwhile."""

    scored: ScoredGroup | None
    failure: Failure | None = None
    judged: Counter[str] = field(default_factory=Counter)
    """Calls, cache hits, retries and so on since the worker last said."""
    began_at: float = 0.0
    """When the answers were there, seconds since the epoch."""
    seconds: float = 0.0
    """Time that scoring took."""


@dataclass(frozen=True, slots=True)
class Assessing:
    """What the judge said of a question's difficulty; None where it gave no verdict that can be read."""

    verdict: Verdict | None
    judged: Counter[str] = field(default_factory=Counter)


def reward_worker(judge: JudgeConfig, **options: Any) -> Any:
    """The worker's actor class, with as many calls at once as its judge can take, and further Ray `options`."""
    return RewardWorker.options(max_concurrency=CALLS_AT_ONCE if judge.can_see else 1, **options)


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1},
            allow_out_of_order_execution=True)
class RewardWorker:
    """Stateless but for the judge's cache: Ray restarts it, and whoever asked asks again.

    A group whose answers are there does not wait for one that was announced before it.
    """

    def __init__(self, cpus: float, config: RewardConfig, judge: JudgeConfig, ledger: Path | None = None,
                 judge_engines: Sequence[Any] = (), judge_key: SecretStr | None = None, log: Path | None = None) -> None:
        """`ledger` is the file of the judge's calls, which stay in memory where its folder is not there; `judge_engines` are
        its actors; `log` gets what the worker prints.

        `judge_key` comes from the driver: workers do not have its environment.
        """
        keep_log(log)
        set_threads(cpus)
        self._config = config
        kept = ledger if ledger is not None and ledger.parent.is_dir() else None  # another node may not see the run's folder
        self._judge = open_judge(judge, kept, judge_engines, judge_key)
        load_rewards(config)

    def ready(self) -> int:
        """Returns the process id once the worker is up."""
        return os.getpid()

    def check_judge(self) -> None:
        """Try the judge. Raises SquallError, which says what is wrong with it."""
        self._judge.check()

    @ray.method(concurrency_group="health")
    def ping(self) -> int:
        """Returns the process id, while a call is running too."""
        return os.getpid()

    def score(self, group_id: str, sample: VideoSample, prompt: str, spec: CorruptionSpec | None,
              rendering: Rendering, *branches: tuple[Rollout, ...]) -> Scoring:
        """Put the branches of a question together and compute every configured reward."""
        began_at, began = time.time(), time.monotonic()
        rollouts = tuple(rollout for branch in branches for rollout in branch)
        group = SampledGroup(group_id, sample, prompt, spec, rendering.clip_hashes, rollouts)

        def compare(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
            stepwise = self._config.alignment.level == "step"
            return (self._judge.graded_similarities if stepwise else self._judge.similarities)(pairs, sample.id)

        try:
            scored = score_group(group, self._config, compare)
            return Scoring(scored, None, self._judge.take_usage(), began_at, time.monotonic() - began)
        except JudgeError as error:
            return Scoring(None, Failure(error.reason, str(error)), self._judge.take_usage())

    def assess(self, sample: VideoSample, clip: Clip) -> Assessing:
        """Ask the judge whether a clip shows enough to answer its question."""
        try:
            return Assessing(self._judge.answerable(sample, clip), self._judge.take_usage())
        except JudgeError:
            return Assessing(None, self._judge.take_usage())
