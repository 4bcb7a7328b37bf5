"""From plans to scored groups: corruption workers, rollout engines and reward workers, chained by references.

Every plan becomes one chain of calls whose intermediate results, pixels among them, stay in the object store. The driver
waits for scored groups alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from pydantic import Field
from ray.exceptions import RayError

from squall.actors.cluster import namespace_for
from squall.actors.corruption_worker import CorruptionWorker
from squall.actors.health import WorkerEvent, WorkerState, next_state
from squall.actors.reward_worker import RewardWorker
from squall.actors.rollout_engine import EngineConfig, GenerateRequest, RolloutEngine
from squall.algorithms.rewards import RewardConfig
from squall.platform.config import Config
from squall.platform.errors import DataError, SquallError
from squall.platform.models import ModelConfig, load_processor, render_prompt
from squall.platform.prompts import build_messages, prompt_template
from squall.platform.records import Branch, CorruptionSpec, MediaType, SamplingSpec, ScoredGroup, VideoSample
from squall.platform.video import FrameSampling


class Publisher(Protocol):
    """Hands the learner's weights to the engines; `Learner.publish` is one."""

    def __call__(self, version: int, *, reconnect: bool) -> Sequence[int]:
        """Returns the numbers of engines that died meanwhile."""


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


@dataclass(frozen=True)
class SamplerConfig:
    """Everything the rollout side needs; made by a job from its own configuration."""

    run_id: str
    model_path: str
    model: ModelConfig
    engine: EngineConfig
    workers: WorkersConfig
    frames: FrameSampling
    cache: Path | None
    prompt_template: str
    rewards: RewardConfig


@dataclass(slots=True)
class _Flight:
    """A plan on its way through the actors."""

    position: int
    plan: GroupPlan
    attempt: int
    engine: int
    hashes: Any
    clips: list[Any]
    deadline: float


class GroupSampler:
    """Runs plans on the cluster: bounded, in order, retried when an actor dies, each counted once."""

    def __init__(self, config: SamplerConfig) -> None:
        if config.engine.dtype == "auto":  # vLLM's own auto would take half precision, and drift from the learner
            config = replace(config, engine=config.engine.model_copy(update={"dtype": config.model.dtype}))
        self._config = config
        self._template = prompt_template(config.prompt_template)
        self._processor = load_processor(config.model_path)
        self._engines: list[Any] = []
        self._corruption: list[Any] = []
        self._rewards: list[Any] = []
        self._version = 0
        self._processes: list[int] = []
        self._publish: Publisher | None = None
        self._turn = 0

    def start(self, engines: bool = True) -> None:
        """Start all actors and wait for them; without `engines` only what `prepare` needs."""
        config, namespace = self._config, namespace_for(self._config.run_id)
        workers = config.workers

        def named(role: str, number: int, cpus: float, gpus: float = 0.0) -> dict[str, Any]:
            return {"name": f"{role}-{number}", "namespace": namespace, "num_cpus": cpus, "num_gpus": gpus}

        self._corruption = [
            CorruptionWorker.options(**named("corruption", i, workers.corruption_cpus)).remote(
                workers.corruption_cpus, config.frames, config.cache) for i in range(workers.corruption_count)]
        if engines:
            self._rewards = [
                RewardWorker.options(**named("reward", i, workers.reward_cpus)).remote(workers.reward_cpus, config.rewards)
                for i in range(workers.reward_count)]
            self._engines = [
                RolloutEngine.options(**named("engine", i, config.engine.cpus, config.engine.gpus)).remote(
                    config.model_path, config.engine) for i in range(config.engine.count)]
        self._await_ready([*self._corruption, *self._rewards], "workers")
        self._await_ready(self._engines, "engines")

    def _await_ready(self, actors: list[Any], role: str) -> None:
        timeout = self._config.engine.startup_timeout_s
        waiting = [actor.ready.remote() for actor in actors]
        done, late = ray.wait(waiting, num_returns=len(waiting), timeout=timeout) if waiting else ([], [])
        if late:
            raise SquallError(f"{len(late)} of {len(waiting)} {role} not ready after {timeout:.0f} s; see the Ray logs, or "
                              f"raise engine.startup_timeout_s")
        for reference in done:
            try:
                ray.get(reference)
            except RayError as error:
                raise SquallError(f"{role} could not start: {_last_line(error)}") from error

    def run(self, plans: Sequence[GroupPlan]) -> list[SampledOutcome]:
        """Sample and score every plan; the outcomes stand in the order of `plans`, whichever worker was faster."""
        outcomes: list[SampledOutcome | None] = [None] * len(plans)
        waiting = deque(enumerate(plans))
        flights: dict[Any, _Flight] = {}
        while waiting or flights:
            while waiting and len(flights) < self._config.workers.max_groups_in_flight:
                self._launch(flights, *waiting.popleft(), attempt=0)
            done, _ = ray.wait(list(flights), num_returns=1, timeout=5.0)
            for reference in done:
                flight = flights.pop(reference)
                outcome = self._settle(reference, flight)
                if outcome is None:
                    self._launch(flights, flight.position, flight.plan, flight.attempt + 1)
                else:
                    outcomes[flight.position] = outcome
            self._check_deadlines(flights)
        return [outcome for outcome in outcomes if outcome is not None]

    def _launch(self, flights: dict[Any, _Flight], position: int, plan: GroupPlan, attempt: int) -> None:
        """Send a plan through all actors at once: each call waits for the references it was given."""
        self._turn += 1
        branches = _branches(plan)
        worker = self._corruption[self._turn % len(self._corruption)]
        hashes, *clips = worker.prepare.options(num_returns=1 + len(branches)).remote(
            plan.sample, plan.corruption, branches, plan.sampling.seed or 0)
        prompt, number = self._prompt(plan.sample), self._turn % len(self._engines)
        answers = [self._engines[number].generate.remote(
            GenerateRequest(prompt, plan.sample.id, f"{plan.group_id}#{attempt}", branch, plan.branches[branch],
                            plan.sampling), clip) for branch, clip in zip(branches, clips, strict=True)]
        final = self._rewards[self._turn % len(self._rewards)].score.remote(
            plan.group_id, plan.sample, prompt, plan.corruption, hashes, *answers)
        deadline = time.monotonic() + self._config.workers.group_timeout_s
        flights[final] = _Flight(position, plan, attempt, number, hashes, clips, deadline)

    def _prompt(self, sample: VideoSample) -> str:
        return render_prompt(self._processor, build_messages(sample, self._template))

    def _settle(self, reference: Any, flight: _Flight) -> SampledOutcome | None:
        """The outcome of a finished flight, or None when it is to be tried again."""
        try:
            scored: ScoredGroup = ray.get(reference)
        except DataError as error:
            return SampledOutcome(flight.plan, failure=Failure(error.reason, str(error)))
        except RayError as error:
            return self._try_again(flight, _last_line(error))
        if any(rollout.weight_version != self._version for rollout in scored.sampled.rollouts):
            return self._try_again(flight, "answers from weights of another version")
        names = [scored.sampled.clip_hashes[branch] for branch in _branches(flight.plan)]
        return SampledOutcome(flight.plan, scored, dict(zip(names, flight.clips, strict=True)))

    def _try_again(self, flight: _Flight, problem: str) -> SampledOutcome | None:
        """None after mending what failed, or a counted failure when the attempts are used up."""
        self._heal(flight.engine)
        if flight.attempt + 1 < self._config.workers.max_attempts:
            return None
        message = f"sample {flight.plan.sample.id}: {flight.attempt + 1} attempts failed: {problem}"
        return SampledOutcome(flight.plan, failure=Failure("infrastructure", message))

    def _heal(self, number: int) -> None:
        """Bring an engine that died back: Ray restarts it, and it is stale until it holds the current weights."""
        engine = self._engines[number]
        if self._is_current(engine):
            return
        state = next_state(next_state(WorkerState.HEALTHY, WorkerEvent.DIED), WorkerEvent.RESTART)
        self._await_process(number)
        state = next_state(state, WorkerEvent.STARTED)
        if self._publish is not None and self._version:
            self._publish(self._version, reconnect=True)
        next_state(state, WorkerEvent.SYNCED)

    def _await_process(self, number: int) -> int:
        """Wait until an engine can serve, restarted if need be; returns its process id."""
        engine = self._engines[number]
        deadline = time.monotonic() + self._config.engine.startup_timeout_s
        while not self._answers(engine):
            if time.monotonic() > deadline:
                raise SquallError(f"engine-{number} did not come back within {self._config.engine.startup_timeout_s:.0f} s; "
                                  "see the Ray logs, or raise engine.startup_timeout_s")
            time.sleep(1.0)
        self._await_ready([engine], f"engine-{number}")
        return ray.get(engine.ready.remote(), timeout=self._config.engine.startup_timeout_s)

    def _is_current(self, engine: Any) -> bool:
        try:
            ray.get(engine.ready.remote(), timeout=10)
            return ray.get(engine.weight_version.remote(), timeout=10) == self._version
        except (RayError, TimeoutError):
            return False

    @staticmethod
    def _answers(engine: Any) -> bool:
        try:
            return ray.get(engine.ping.remote(), timeout=10)
        except (RayError, TimeoutError):
            return False

    def _check_deadlines(self, flights: Mapping[Any, _Flight]) -> None:
        for flight in flights.values():
            if time.monotonic() > flight.deadline:
                ready, _ = ray.wait([flight.hashes], timeout=0)
                phase = f"engine-{flight.engine} answering or scoring" if ready else "decoding and corrupting the clip"
                raise SquallError(f"sample {flight.plan.sample.id}: no result after "
                                  f"{self._config.workers.group_timeout_s:.0f} s, stuck in {phase}; see the Ray logs, or "
                                  "raise workers.group_timeout_s")

    def prepare(self, plans: Sequence[GroupPlan]) -> Iterator[Prepared]:
        """Start rendering the clips of plans, about which nothing will be asked; yields them in order, waiting for each."""
        calls = []
        for number, plan in enumerate(plans):
            branches = _branches(plan)
            worker = self._corruption[number % len(self._corruption)]
            calls.append((plan, branches, worker.prepare.options(num_returns=1 + len(branches)).remote(
                plan.sample, plan.corruption, branches, plan.sampling.seed or 0)))
        return (self._prepared(plan, branches, references) for plan, branches, references in calls)

    def _prepared(self, plan: GroupPlan, branches: Sequence[Branch], references: list[Any]) -> Prepared:
        try:
            hashes = ray.get(references[0], timeout=self._config.workers.group_timeout_s)
        except DataError as error:
            return Prepared(plan, failure=Failure(error.reason, str(error)))
        clips = {hashes[branch]: clip for branch, clip in zip(branches, references[1:], strict=True)}
        return Prepared(plan, self._prompt(plan.sample), hashes, clips)

    @property
    def engines(self) -> Sequence[Any]:
        """Handles of the rollout engines."""
        return tuple(self._engines)

    def connect(self, publish: Publisher) -> None:
        """Say who hands weights to the engines, for `update_weights` and for an engine that comes back after it died."""
        self._publish = publish

    def update_weights(self, version: int) -> None:
        """Have the learner's weights handed to every engine under a version; engines that die meanwhile are brought back."""
        if self._publish is None:
            raise SquallError("update_weights before connect: nobody has weights to hand over")
        processes = [self._await_process(number) for number in range(len(self._engines))]
        lost = self._publish(version, reconnect=processes != self._processes)  # one may have died while nothing was asked
        self._processes, self._version = processes, version
        for number in lost:
            self._heal(number)

    def stop(self) -> None:
        """End all actors."""
        for actor in (*self._engines, *self._corruption, *self._rewards):
            ray.kill(actor)


def _branches(plan: GroupPlan) -> list[Branch]:
    """The branches that are sampled; an image has no frames to shuffle."""
    image = plan.sample.media_type is MediaType.IMAGE
    return [branch for branch, count in plan.branches.items() if count and not (image and branch is Branch.SHUFFLED)]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
