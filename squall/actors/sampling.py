"""From plans to scored groups: corruption workers, rollout engines and reward workers, chained by references.

Every plan becomes one chain of calls whose intermediate results, pixels among them, stay in the object store. The driver
waits for scored groups alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from squall.platform.config import Config
from squall.platform.records import Branch, CorruptionSpec, SamplingSpec, ScoredGroup, VideoSample


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
    """How long one group may take before the run says which phase is stuck."""
    max_attempts: int = Field(3, ge=1)
    """How often a group is tried when an actor dies, before it is dropped and counted."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What to sample for one question. `branches` says how many answers each branch gets.

    The shuffled branch permutes the corrupted clip's frames where there is a corruption, else the clean clip's.
    """

    group_id: str
    sample: VideoSample
    corruption: CorruptionSpec | None
    branches: Mapping[Branch, int]
    sampling: SamplingSpec


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no group. Never a reward of 0."""

    reason: str
    """Short snake_case word under which the loss is counted."""
    message: str


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
    """What became of a plan: a scored group with references to its clips by content hash, or a failure."""

    plan: GroupPlan
    scored: ScoredGroup | None = None
    clips: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
