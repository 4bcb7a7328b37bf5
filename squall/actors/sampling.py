"""From plans to scored groups: corruption workers, rollout engines and reward workers, chained by references.

Every plan becomes one chain of calls whose intermediate results, pixels among them, stay in the object store. The driver
waits for scored groups alone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import ray
from pydantic import Field
from ray.exceptions import RayError, RayTaskError

from squall.actors.cluster import namespace_for
from squall.actors.corruption_worker import CorruptionWorker, Rendering
from squall.actors.health import WorkerState
from squall.actors.reward_worker import RewardWorker
from squall.actors.rollout_engine import EngineConfig, GenerateRequest, RolloutEngine
from squall.actors.supervisor import Change, Supervisor, Worker
from squall.algorithms.rewards import RewardConfig
from squall.platform.config import Config
from squall.platform.errors import DataError, SquallError, cause
from squall.platform.models import ModelConfig, load_processor, render_prompt
from squall.platform.prompts import build_messages, prompt_template
from squall.platform.records import Branch, CorruptionSpec, MediaType, SamplingSpec, ScoredGroup, VideoSample
from squall.platform.video import FrameSampling


class Publisher(Protocol):
    """Hands the learner's weights to the engines; `Learner.publish` is one."""

    def __call__(self, version: int, engines: Sequence[int], *, reconnect: bool) -> Sequence[int]:
        """Hand a version to the engines of these numbers; returns those of engines that died meanwhile."""


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

    def add(self, plan: GroupPlan, rendering: Rendering, group: ScoredGroup) -> None:
        """Count one group."""
        rollouts = group.sampled.rollouts
        self.amounts.update(clips=len(rendering.clip_hashes), frames=rendering.frames, answers=len(rollouts),
                            tokens=sum(len(rollout.token_ids) for rollout in rollouts))
        if plan.corruption is not None:
            self.corruption_s.setdefault(plan.corruption.name, []).append(rendering.corruption_s)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Amounts per second of a time this long, and the mean milliseconds of each corruption."""
        rates = {f"{name}_per_s": amount / seconds for name, amount in self.amounts.items()}
        return rates | {f"corruption_ms/{kind}": 1000 * fmean(times) for kind, times in self.corruption_s.items()}


@dataclass(slots=True)
class _Flight:
    """A plan on its way through the actors."""

    key: Hashable
    plan: GroupPlan
    attempt: int
    version: int
    """Weights that the engines held when it started."""
    workers: Mapping[str, Worker]
    rendering: Any
    clips: list[Any]
    answers: list[Any]
    deadline: float
    asked: bool = False
    """Whether the worker that it waits for has been asked if it lives."""


class GroupSampler:
    """Runs plans on the cluster: bounded, retried under a new attempt id when an actor dies, each settled once.

    `run` takes a batch and waits for it. `submit` and `poll` let other work go on meanwhile.
    """

    def __init__(self, config: SamplerConfig, engine_class: Any = RolloutEngine,
                 on_state: Callable[[str, str], None] = lambda worker, state: None) -> None:
        """`engine_class` is a Ray actor class with the methods of `RolloutEngine`; `on_state` hears of every worker's state."""
        if config.engine.dtype == "auto":  # vLLM's own auto would take half precision, and drift from the learner
            config = replace(config, engine=config.engine.model_copy(update={"dtype": config.model.dtype}))
        self._config, self._engine_class = config, engine_class
        self._template = prompt_template(config.prompt_template)
        self._processor = load_processor(config.model_path)
        self._supervisor = Supervisor(config.engine.startup_timeout_s, on_state, config.logs)
        self._waiting: deque[tuple[Hashable, GroupPlan, int]] = deque()
        self._flights: dict[Any, _Flight] = {}
        self._version = 0
        self._processes: list[int] = []
        self._publish: Publisher | None = None
        self._retried: Counter[str] = Counter()
        self._work = Work()
        self._kept: list[tuple[Hashable, SampledOutcome]] = []
        self._idle_since: float | None = time.monotonic()
        self._idle_s = 0.0

    def start(self, engines: bool = True) -> None:
        """Start all actors and wait for them; without `engines` only what `prepare` needs."""
        config, namespace = self._config, namespace_for(self._config.run_id)
        workers = config.workers

        def named(role: str, number: int, cpus: float, gpus: float = 0.0) -> dict[str, Any]:
            return {"name": f"{role}-{number}", "namespace": namespace, "num_cpus": cpus, "num_gpus": gpus,
                    "scheduling_strategy": "DEFAULT"}  # not into the placement group of a sweep's trial, which is a driver's

        corruption = [
            CorruptionWorker.options(**named("corruption", i, workers.corruption_cpus)).remote(
                workers.corruption_cpus, config.frames, config.cache, config.log_of("corruption", i))
            for i in range(workers.corruption_count)]
        if not engines:
            self._supervisor.add("corruption", corruption)
            return
        rewards = [
            RewardWorker.options(**named("reward", i, workers.reward_cpus)).remote(
                workers.reward_cpus, config.rewards, config.log_of("reward", i))
            for i in range(workers.reward_count)]
        started = [
            self._engine_class.options(**named("engine", i, config.engine.cpus, config.engine.gpus)).remote(
                config.model_path, config.engine, config.log_of("engine", i)) for i in range(config.engine.count)]
        for role, actors in (("corruption", corruption), ("reward", rewards), ("engine", started)):
            self._supervisor.add(role, actors)

    def run(self, plans: Sequence[GroupPlan], meanwhile: Callable[[], None] = lambda: None) -> list[SampledOutcome]:
        """Sample and score every plan; the outcomes stand in the order of `plans`, whichever worker was faster.

        Outcomes of what was submitted before are kept for the next `poll`. The learner must be free to hand out weights.

        Args:
            meanwhile: called after every wait; an exception of it ends the run.
        """
        batch = object()
        keys = [_BatchKey(batch, position) for position in range(len(plans))]
        for key, plan in zip(keys, plans, strict=True):
            self.submit(key, plan)
        own: dict[Hashable, SampledOutcome] = {}
        others: list[tuple[Hashable, SampledOutcome]] = []
        while len(own) < len(plans):
            for key, outcome in self.poll(5.0, may_publish=True):
                if isinstance(key, _BatchKey) and key.batch is batch:
                    own[key] = outcome
                elif not isinstance(key, _BatchKey):  # one of a batch that was broken off interests nobody
                    others.append((key, outcome))
            meanwhile()
        self._kept += others
        return [own[key] for key in keys]

    def submit(self, key: Hashable, plan: GroupPlan) -> None:
        """Take a plan; `poll` returns its outcome under `key`."""
        self._waiting.append((key, plan, 0))
        self._launch()

    def poll(self, timeout_s: float, *, may_publish: bool = False) -> list[tuple[Hashable, SampledOutcome]]:
        """Outcomes that have come in, waiting up to `timeout_s` seconds for the first; each plan's comes once.

        Args:
            may_publish: whether the learner is free to hand weights to an engine that came back.

        Raises:
            SquallError: a group is stuck although its workers live, or the last worker of a role is gone.
        """
        kept, self._kept = self._kept, []
        if kept:
            return kept
        self._supervisor.tick()
        if may_publish:
            self._synchronise()
        self._launch()
        pause = timeout_s if self._flights and not self._waiting else min(timeout_s, 0.2)
        if not self._flights:
            time.sleep(pause if self._waiting else 0.0)
            return []
        done, _ = ray.wait(list(self._flights), num_returns=len(self._flights), timeout=0)
        if not done:
            done, _ = ray.wait(list(self._flights), num_returns=1, timeout=min(pause, 1.0))
        settled = []
        for reference in done:
            flight = self._flights.pop(reference)
            outcome = self._settle(reference, flight)
            if outcome is not None:
                settled.append((flight.key, outcome))
        self._check_deadlines()
        self._note_idle()
        return settled

    def idle_seconds(self) -> float:
        """Seconds in which nothing was underway since this was last asked."""
        self._note_idle()
        idle, self._idle_s = self._idle_s, 0.0
        return idle

    def take_retries(self) -> Counter[str]:
        """Groups tried again since this was last asked, by reason."""
        retried, self._retried = self._retried, Counter()
        return retried

    def take_work(self) -> Work:
        """What was rendered and sampled since this was last asked."""
        work, self._work = self._work, Work()
        return work

    def take_changes(self) -> list[Change]:
        """Workers that died, restarted or were given up since this was last asked."""
        changes = list(self._supervisor.changes)
        self._supervisor.changes.clear()
        return changes

    def _note_idle(self) -> None:
        now = time.monotonic()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
        self._idle_since = None if self._flights else now

    def _launch(self) -> None:
        """Send waiting plans through all actors at once, as far as the limit and healthy workers go."""
        while self._waiting and len(self._flights) < self._config.workers.max_groups_in_flight:
            workers = {role: self._supervisor.choose(role) for role in ("corruption", "engine", "reward")}
            if None in workers.values():
                return
            self._fly(*self._waiting.popleft(), workers)
        self._note_idle()

    def _fly(self, key: Hashable, plan: GroupPlan, attempt: int, workers: Mapping[str, Worker]) -> None:
        branches = _branches(plan)
        rendering, *clips = workers["corruption"].actor.prepare.options(num_returns=1 + len(branches)).remote(
            plan.sample, plan.corruption, branches, plan.sampling.seed or 0)
        prompt = self._prompt(plan.sample)
        answers = [workers["engine"].actor.generate.remote(
            GenerateRequest(prompt, plan.sample.id, f"{plan.group_id}#{attempt}", branch, plan.branches[branch],
                            plan.sampling), clip) for branch, clip in zip(branches, clips, strict=True)]
        final = workers["reward"].actor.score.remote(plan.group_id, plan.sample, prompt, plan.corruption, rendering, *answers)
        deadline = time.monotonic() + self._config.workers.group_timeout_s
        self._flights[final] = _Flight(key, plan, attempt, self._version, workers, rendering, clips, answers, deadline)

    def _prompt(self, sample: VideoSample) -> str:
        return render_prompt(self._processor, build_messages(sample, self._template))

    def _settle(self, reference: Any, flight: _Flight) -> SampledOutcome | None:
        """The outcome of a finished flight, or None when it is to be tried again."""
        try:
            scored: ScoredGroup = ray.get(reference)
        except DataError as error:
            return SampledOutcome(flight.plan, failure=Failure(error.reason, _own_text(error)))
        except RayError as error:
            root = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(root, RayError):  # the workers live and code of theirs failed: it would fail again
                message = f"sample {flight.plan.sample.id}: {cause(error)}"
                return SampledOutcome(flight.plan, failure=Failure("task_error", message))
            reason = self._supervisor.accuse(root, list(flight.workers.values()))
            return self._try_again(flight, reason, cause(root))
        if any(rollout.weight_version < flight.version for rollout in scored.sampled.rollouts):
            self._supervisor.suspect(flight.workers["engine"], "answered from older weights")
            return self._try_again(flight, "older_weights", "answers from weights of an older version")
        self._work.add(flight.plan, ray.get(flight.rendering), scored)
        names = [scored.sampled.clip_hashes[branch] for branch in _branches(flight.plan)]
        return SampledOutcome(flight.plan, scored, dict(zip(names, flight.clips, strict=True)))

    def _try_again(self, flight: _Flight, reason: str, problem: str) -> SampledOutcome | None:
        """None after putting the plan first in line again, or a counted failure when the attempts are used up."""
        if flight.attempt + 1 < self._config.workers.max_attempts:
            self._retried[reason] += 1
            self._waiting.appendleft((flight.key, flight.plan, flight.attempt + 1))
            return None
        message = f"sample {flight.plan.sample.id}: {flight.attempt + 1} attempts failed: {problem}"
        return SampledOutcome(flight.plan, failure=Failure("infrastructure", message))

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for flight in self._flights.values():
            if now > flight.deadline:
                worker, phase = self._stuck(flight)
                if worker.state is WorkerState.HEALTHY:
                    raise SquallError(f"sample {flight.plan.sample.id}: no result after "
                                      f"{self._config.workers.group_timeout_s:.0f} s, stuck in {phase} although {worker.name} "
                                      "answers; see the Ray logs, or raise workers.group_timeout_s")
            elif not flight.asked and now > flight.deadline - min(60.0, self._config.workers.group_timeout_s / 2):
                flight.asked = True
                worker, phase = self._stuck(flight)
                self._supervisor.suspect(worker, f"sample {flight.plan.sample.id} waits for {phase}")

    @staticmethod
    def _stuck(flight: _Flight) -> tuple[Worker, str]:
        """The worker that a flight waits for, and what for."""
        for role, references, phase in (("corruption", [flight.rendering], "decoding and corrupting the clip"),
                                        ("engine", flight.answers, "sampling answers")):
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            if len(ready) < len(references):
                return flight.workers[role], phase
        return flight.workers["reward"], "scoring answers"

    def prepare(self, plans: Sequence[GroupPlan]) -> Iterator[Prepared]:
        """Start rendering the clips of plans, about which nothing will be asked; yields them in order, waiting for each."""
        calls = [(plan, self._render(plan)) for plan in plans]
        return (self._prepared(plan, references) for plan, references in calls)

    def _render(self, plan: GroupPlan) -> list[Any]:
        branches = _branches(plan)
        while (worker := self._supervisor.choose("corruption")) is None:
            self._supervisor.tick()
            time.sleep(0.05)
        return worker.actor.prepare.options(num_returns=1 + len(branches)).remote(
            plan.sample, plan.corruption, branches, plan.sampling.seed or 0)

    def _prepared(self, plan: GroupPlan, references: list[Any]) -> Prepared:
        for attempt in range(self._config.workers.max_attempts):
            try:
                hashes = ray.get(references[0], timeout=self._config.workers.group_timeout_s).clip_hashes
            except DataError as error:
                return Prepared(plan, failure=Failure(error.reason, _own_text(error)))
            except RayError as error:
                problem = cause(error)
                self._retried[self._supervisor.accuse(error, self._supervisor.of("corruption"))] += 1
                self._supervisor.settle("corruption")
                if attempt + 1 < self._config.workers.max_attempts:
                    references = self._render(plan)
                continue
            clips = {hashes[branch]: clip for branch, clip in zip(_branches(plan), references[1:], strict=True)}
            return Prepared(plan, self._prompt(plan.sample), hashes, clips)
        message = f"sample {plan.sample.id}: {self._config.workers.max_attempts} attempts failed: {problem}"
        return Prepared(plan, failure=Failure("infrastructure", message))

    @property
    def engines(self) -> Sequence[Any]:
        """Handles of the rollout engines."""
        return tuple(worker.actor for worker in self._supervisor.workers if worker.role == "engine")

    def sleep(self) -> None:
        """Have every engine give back its GPU's memory until the next `update_weights`."""
        calls = [(worker, worker.actor.sleep.remote()) for worker in self._supervisor.of("engine")]
        for worker, call in calls:
            try:
                ray.get(call, timeout=self._config.engine.request_timeout_s)
            except RayError as error:
                self._supervisor.suspect(worker, cause(error))

    def connect(self, publish: Publisher) -> None:
        """Say who hands weights to the engines, for `update_weights` and for an engine that comes back after it died."""
        self._publish = publish

    def update_weights(self, version: int) -> None:
        """Have the learner's weights handed to every engine under a version; engines that die meanwhile are brought back."""
        if self._publish is None:
            raise SquallError("update_weights before connect: nobody has weights to hand over")
        self._supervisor.settle("engine")
        for worker in (*self._supervisor.of("corruption"), *self._supervisor.of("reward")):
            self._supervisor.suspect(worker, "")  # one that died with nothing in its hands is counted too
        engines = self._supervisor.of("engine")
        processes = [worker.process for worker in engines]
        # One may have died while nothing was asked: another process is another connection.
        lost = self._publish(version, [worker.number for worker in engines], reconnect=processes != self._processes)
        self._processes, self._version = processes, version
        for worker in engines:
            if worker.number in lost:
                self._supervisor.suspect(worker, "died while it received weights")
            else:
                self._supervisor.synced(worker)

    def _synchronise(self) -> None:
        """Give engines that came back the current weights; before the first update those they loaded are current."""
        stale = [worker for worker in self._supervisor.of("engine") if worker.state is WorkerState.STALE]
        if stale and self._version and self._publish is not None:
            self.update_weights(self._version)
        elif not self._version:
            for worker in stale:
                self._supervisor.synced(worker)

    def stop(self) -> None:
        """End all actors."""
        for worker in self._supervisor.workers:
            ray.kill(worker.actor)


@dataclass(frozen=True, slots=True)
class _BatchKey:
    """Marks what a call of `run` has submitted."""

    batch: object
    position: int


def _branches(plan: GroupPlan) -> list[Branch]:
    """The branches that are sampled; an image has no frames to shuffle."""
    image = plan.sample.media_type is MediaType.IMAGE
    return [branch for branch, count in plan.branches.items() if count and not (image and branch is Branch.SHUFFLED)]


def _own_text(error: BaseException) -> str:
    """What an error said where it was raised: Ray shows the worker's traceback in its place, once for each call it passed."""
    while isinstance(root := getattr(error, "cause", None), BaseException):
        error = root
    return str(error)
