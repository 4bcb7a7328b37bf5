"""What goes into the rollout side and what comes out of it: configuration, plans, outcomes, and counts of the work done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from squall.actors.corruption_worker import Rendering
from squall.actors.engine_config import EngineActorsConfig
from squall.actors.judge_config import JudgeConfig
from squall.actors.reward_worker import Failure
from squall.algorithms.difficulty import Assessment, DifficultyConfig
from squall.algorithms.rewards import RewardConfig
from squall.platform.config import Config
from squall.platform.models import ModelConfig
from squall.platform.records import Branch, CorruptionSpec, MediaType, SamplingSpec, ScoredGroup, VideoSample
from squall.platform.video import FrameSampling


class WorkersConfig(Config):
    """CPU workers beside the engines."""

    corruption_count: int = Field(1, ge=1)
    """Actors that decode and corrupt clips."""
    corruption_cpus: float = Field(0.5, gt=0)
    """CPUs that Ray reserves for each."""
    reward_count: int = Field(1, ge=1)
    """Actors that score answers."""
    reward_cpus: float = Field(0.25, gt=0)
    """CPUs that Ray reserves for each."""
    max_groups_in_flight: int = Field(64, ge=1)
    """Groups between corruption and reward at any time."""
    group_timeout_s: float = Field(600.0, gt=0)
    """How long one group may take. Before that the worker it waits for is asked whether it lives, and replaced if not; past it
    the run stops and says which phase is stuck."""
    max_attempts: int = Field(3, ge=1)
    """How often a group is tried when an actor dies, before it is dropped and counted."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What to sample for one question. `branches` says how many answers each branch gets."""

    group_id: str
    sample: VideoSample
    corruption: CorruptionSpec | None
    branches: Mapping[Branch, int]
    sampling: SamplingSpec
    shuffled_from: Branch = Branch.CORRUPTED
    """Whose frames the shuffled branch permutes; without a corruption the corrupted clip is the clean one."""
    difficulty: DifficultyConfig | None = None
    """Where it `asks_first`: answers are sampled only if the question then turns out to be worth training on."""

    @property
    def sampled(self) -> list[Branch]:
        """The branches that are asked about; an image has no frames to shuffle."""
        image = self.sample.media_type is MediaType.IMAGE
        return [branch for branch, count in self.branches.items() if count and not (image and branch is Branch.SHUFFLED)]

    @property
    def assessed_first(self) -> bool:
        """Whether the question's difficulty is asked for before answers are sampled."""
        return self.difficulty is not None and self.difficulty.asks_first

    @property
    def rendered(self) -> list[Branch]:
        """The branches whose clips are made: those that are asked about, and the one that the question is assessed on."""
        also = [Branch.CORRUPTED] if self.assessed_first and Branch.CORRUPTED not in self.sampled else []
        return [*self.sampled, *also]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan's clips, rendered and in the object store."""

    plan: GroupPlan
    prompt: str = ""
    clip_hashes: Mapping[Branch, str] = field(default_factory=dict)
    clips: Mapping[str, Any] = field(default_factory=dict)
    """References to the clips by content hash."""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class SampledOutcome:
    """What became of a plan: a scored group with references to its clips by content hash, or a failure.

    Neither where the question was assessed first, and left out or put off.
    """

    plan: GroupPlan
    scored: ScoredGroup | None = None
    clips: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    assessment: Assessment | None = None
    """The question's difficulty, where it was asked for first and the verdict could be read."""


@dataclass(frozen=True)
class SamplerConfig:
    """Everything the rollout side needs; made by a job from its own configuration."""

    run_id: str
    model_path: str
    model: ModelConfig
    engine: EngineActorsConfig
    workers: WorkersConfig
    frames: FrameSampling
    cache: Path | None
    prompt_template: str
    rewards: RewardConfig
    judge: JudgeConfig = JudgeConfig()
    needs_judge: bool = False
    """Whether a reward or the difficulty asks the judge."""
    ledger: Path | None = None
    """File of the judge's calls."""
    logs: Path | None = None
    """Folder for what the actors print; None leaves it to Ray."""

    def log_of(self, role: str, number: int) -> Path | None:
        """The file of one actor."""
        return None if self.logs is None else self.logs / f"{role}-{number}.log"


@dataclass(slots=True)
class Work:
    """What was rendered and sampled in some time."""

    amounts: Counter[str] = field(default_factory=Counter)
    """Clips, frames, answers and tokens."""
    corruption_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of every corrupted clip, by kind."""
    busy_s: Counter[str] = field(default_factory=Counter)
    """Seconds that a worker of a role was at work, mean over its workers."""
    answering: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """When each engine had questions: from a group's clips being there to its answers, seconds since the epoch."""
    judged: Counter[str] = field(default_factory=Counter)
    """Calls of the judge, cache hits, retries and so on; ``unreadable``: the policy's own verdicts that could not be read."""

    def add(self, plan: GroupPlan, rendering: Rendering, group: ScoredGroup) -> None:
        """Count one group."""
        rollouts = group.sampled.rollouts
        self.amounts.update(clips=len(rendering.clip_hashes), frames=rendering.frames, answers=len(rollouts),
                            tokens=sum(len(rollout.token_ids) for rollout in rollouts))
        if plan.corruption is not None:
            self.corruption_s.setdefault(plan.corruption.name, []).append(rendering.corruption_s)

    def count_answering(self, engines: int, covered: Counter[str]) -> None:
        """Turn `answering` into the engines' busy seconds; `covered` says up to when they were counted before, and moves on."""
        for engine, spans in self.answering.items():
            for start, end in sorted(spans):
                self.busy_s["engine"] += max(0.0, end - max(start, covered[engine])) / engines
                covered[engine] = max(covered[engine], end)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Amounts per second of a time this long, its share in which roles were busy, mean milliseconds of each corruption."""
        rates = {f"{name}_per_s": amount / seconds for name, amount in self.amounts.items()}
        judged = {f"judge/{name}": float(count) for name, count in self.judged.items()}
        busy = {f"busy/{role}": min(1.0, time / seconds) for role, time in self.busy_s.items()}
        costs = {f"corruption_ms/{kind}": 1000 * fmean(times) for kind, times in self.corruption_s.items()}
        return rates | judged | busy | costs
