"""From plans to scored groups: corruption workers, rollout engines and reward workers, chained by references.

Every plan becomes one chain of calls whose intermediate results, pixels among them, stay in the object store. The driver
waits for scored groups alone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from squall.actors.cluster import namespace_for
from squall.actors.corruption_worker import CorruptionWorker, Rendering
from squall.actors.groups import GroupPlan, Prepared, SampledOutcome, SamplerConfig, Work
from squall.actors.health import WorkerState
from squall.actors.judge_config import POLICY, JudgeConfig
from squall.actors.placement import OUTSIDE, Placement
from squall.actors.resources import amount
from squall.actors.reward_worker import Assessing, Failure, Scoring, reward_worker
from squall.actors.rollout_engine import Completion, EngineConfig, GenerateRequest, RolloutEngine
from squall.actors.supervisor import Change, Supervisor, Worker
from squall.algorithms.difficulty import Assessment, Decision, assess_verdict, decide
from squall.algorithms.judging import ANSWERABLE_PATTERN, UnreadableReply, Verdict, answerable_question, parse_answerable
from squall.platform.errors import DataError, SquallError, cause
from squall.platform.models import EMBEDDED_POLICY, load_processor, render_prompt
from squall.platform.prompts import ask_about, build_messages, prompt_template
from squall.platform.records import Branch, SamplingSpec, VideoSample

VERDICT_TOKENS = 16
"""Room for "YES 0.8", whatever the tokenizer."""

PLACES: Mapping[str, str] = {"corruption": "corruption worker", "engine": "engine", "reward": "reward worker",
                             "judge": "judge engine"}
"""Roles of actors as a plan of resources calls them."""


class Publisher(Protocol):
    """Hands the learner's weights to the engines; `Learner.publish` is one."""

    def __call__(self, version: int, engines: Sequence[int], *, reconnect: bool,
                 meanwhile: Callable[[], None]) -> Mapping[int, str]:
        """Hand a version to the engines of these numbers; returns those of engines that were lost meanwhile, and why."""


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
    clips: Mapping[Branch, Any]
    answers: list[Any]
    deadline: float
    assessing: bool = False
    """Whether it is the question's difficulty that is being asked for."""
    assessment: Assessment | None = None
    asked: bool = False
    """Whether the worker that it waits for has been asked if it lives."""


class GroupSampler:
    """Runs plans on the cluster: bounded, retried under a new attempt id when an actor dies, each settled once.

    `run` takes a batch and waits for it. `submit` and `poll` let other work go on meanwhile.
    """

    def __init__(self, config: SamplerConfig, engine_class: Any = RolloutEngine,
                 on_state: Callable[[str, str], None] = lambda worker, state: None,
                 placement: Placement | None = None, on_wait: Callable[[str], None] = lambda text: None) -> None:
        """`on_state` hears of every worker's state, `on_wait` of those that take long to come back.

        Args:
            placement: where places are reserved for the actors; without one they go wherever there is room.
            engine_class: Ray actor class with `ready`, `ping` and `generate` of `RolloutEngine`, made for `config.engine`. What
                assesses or judges needs `complete` too, and what learns all of its methods.
        """
        engine = config.engine
        if isinstance(engine, EngineConfig) and engine.dtype == "auto":  # vLLM's own would take half precision, and drift from
            config = replace(config, engine=engine.model_copy(update={"dtype": config.model.dtype}))  # the learner
        self._config, self._engine_class, self._placement = config, engine_class, placement
        self._template = prompt_template(config.prompt_template)
        self._processor = load_processor(config.model_path) if engine.takes_chat_text else None
        self._supervisor = Supervisor(config.engine.startup_timeout_s, on_state, config.logs, on_wait=on_wait)
        self._waiting: deque[tuple[Hashable, GroupPlan, int]] = deque()
        self._flights: dict[Any, _Flight] = {}
        self._version = 0
        self._processes: list[tuple[int, int]] = []
        self._publish: Publisher | None = None
        self._retried: Counter[str] = Counter()
        self._work = Work()
        self._kept: list[tuple[Hashable, SampledOutcome]] = []
        self._judges: list[Any] = []
        self._starting: list[tuple[str, list[Any], str]] = []
        """Role, actors and what Ray reserves for each, of those that have not been waited for."""
        self._engines: list[Any] = []
        self._covered: Counter[str] = Counter()
        self._idle_since: float | None = time.monotonic()
        self._idle_s = 0.0

    def start(self, engines: bool = True) -> None:
        """`launch` and `wait`."""
        self.launch(engines)
        self.wait()

    def launch(self, engines: bool = True) -> None:
        """Start all actors, without waiting for them; without `engines` only what `prepare` needs."""
        config, namespace = self._config, namespace_for(self._config.run_id)
        workers = config.workers

        def named(role: str, number: int, cpus: float, gpus: float = 0.0) -> dict[str, Any]:
            place = OUTSIDE if self._placement is None else self._placement.options(PLACES[role], number)
            return {"name": f"{role}-{number}", "namespace": namespace, "num_cpus": cpus, "num_gpus": gpus, **place}

        takes = {"engine": amount(config.engine.cpus, config.engine.gpus), "reward": amount(workers.reward_cpus),
                 "corruption": amount(workers.corruption_cpus)}
        corruption = [
            CorruptionWorker.options(**named("corruption", i, workers.corruption_cpus)).remote(
                workers.corruption_cpus, config.frames, config.cache, config.log_of("corruption", i))
            for i in range(workers.corruption_count)]
        self._starting.append(("corruption", corruption, takes["corruption"]))
        if not engines:
            return
        together = config.engine.count
        if self._placement is not None:
            together = max(self._placement.nodes_of(PLACES["engine"]).values(), default=together)
        self._supervisor.startup_timeout_s = config.engine.patience_s(together)
        key = config.engine.read_key()
        secret = {} if key is None else {"key": key}
        self._engines = [
            self._engine_class.options(**named("engine", i, config.engine.cpus, config.engine.gpus)).remote(
                config.model_path, config.engine, config.log_of("engine", i), **secret) for i in range(config.engine.count)]
        judge = config.judge if config.needs_judge else JudgeConfig()
        judges, judge_key = self._judge_engines(self._engines, named), judge.read_key()
        rewards = [
            reward_worker(judge, **named("reward", i, workers.reward_cpus)).remote(
                workers.reward_cpus, config.rewards, judge, config.ledger, judges, judge_key, config.log_of("reward", i))
            for i in range(workers.reward_count)]
        self._starting += [("reward", rewards, takes["reward"]), ("engine", self._engines, takes["engine"])]

    def wait(self) -> None:
        """Wait until all actors that were launched can serve; nothing to do when they were waited for before."""
        if not self._starting:
            return
        for role, actors, takes in tuple(self._starting):
            self._supervisor.add(role, actors, takes)
            self._starting.pop(0)
        if self._config.needs_judge and self._engines:
            self._check_judge(self._supervisor.of("reward")[0].actor)

    def _judge_engines(self, policy: list[Any], named: Callable[..., dict[str, Any]]) -> list[Any]:
        """The policy's engines or newly started ones, where engines judge."""
        judge = self._config.judge
        if not self._config.needs_judge or judge.kind != "engine":
            return []
        if judge.model == POLICY:
            return policy
        path = str(EMBEDDED_POLICY) if judge.model == "@embedded" else judge.model  # which may be a text model
        self._judges = [
            self._engine_class.options(**named("judge", i, judge.engine.cpus, judge.engine.gpus)).remote(
                path, judge.engine, self._config.log_of("judge", i)) for i in range(judge.engine.count)]
        return self._judges

    def _check_judge(self, worker: Any) -> None:
        try:
            ray.get([judge.ready.remote() for judge in self._judges], timeout=self._config.judge.engine.startup_timeout_s)
            ray.get(worker.check_judge.remote(), timeout=self._config.judge.engine.startup_timeout_s)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, SquallError) else SquallError(f"judge: {cause(error)}") from None
        except RayError as error:
            raise SquallError(f"judge: {cause(error)}") from error

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
        self._launch()  # before anybody spends time on what came in
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
        work.count_answering(self._config.engine.count, self._covered)
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
        rendering, clips = self._render(plan, workers["corruption"])
        deadline = time.monotonic() + self._config.workers.group_timeout_s
        flight = _Flight(key, plan, attempt, self._version, workers, rendering, clips, [], deadline)
        if plan.assessed_first:
            self._assess(flight)
        else:
            self._sample(flight)

    def _assess(self, flight: _Flight) -> None:
        """Ask whether the corrupted clip shows enough to answer the question."""
        plan, clip = flight.plan, flight.clips[Branch.CORRUPTED]
        flight.assessing = True
        if plan.difficulty.reading == "self":
            messages = ask_about(plan.sample, answerable_question(plan.sample))
            final = flight.workers["engine"].actor.complete.remote(
                messages, SamplingSpec(0.0, 1.0, VERDICT_TOKENS), f"{plan.group_id}#{flight.attempt}?", plan.sample.id, clip,
                ANSWERABLE_PATTERN)
        else:
            final = flight.workers["reward"].actor.assess.remote(plan.sample, clip)
        flight.answers = [final]
        self._flights[final] = flight

    def _sample(self, flight: _Flight) -> None:
        """Ask the question about every branch's clip, and score the answers."""
        plan, branches = flight.plan, flight.plan.sampled
        flight.assessing = False
        prompt = self._prompt(plan.sample)
        flight.answers = [flight.workers["engine"].actor.generate.remote(
            GenerateRequest(prompt, plan.sample.id, f"{plan.group_id}#{flight.attempt}", branch, plan.branches[branch],
                            plan.sampling, plan.sample.options), flight.clips[branch]) for branch in branches]
        final = flight.workers["reward"].actor.score.remote(
            plan.group_id, plan.sample, prompt, plan.corruption, flight.rendering, *flight.answers)
        self._flights[final] = flight

    def _prompt(self, sample: VideoSample) -> str:
        if self._processor is None:
            return self._template.render(sample)
        return render_prompt(self._processor, build_messages(sample, self._template))

    def _settle(self, reference: Any, flight: _Flight) -> SampledOutcome | None:
        """The outcome of a finished flight, or None when it goes on or is to be tried again."""
        try:
            result = ray.get(reference)
        except RayError as error:
            root = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(root, DataError):
                return SampledOutcome(flight.plan, failure=Failure(root.reason, str(root)))
            if isinstance(root, SquallError):  # a key that is refused, a reward that does not fit: every group would fail
                raise root from None
            if not isinstance(root, RayError):  # the workers live and code of theirs failed: it would fail again
                message = f"sample {flight.plan.sample.id}: {cause(error)}"
                return SampledOutcome(flight.plan, failure=Failure("task_error", message))
            reason = self._supervisor.accuse(root, list(flight.workers.values()))
            return self._try_again(flight, reason, cause(root))
        return self._assessed(flight, result) if flight.assessing else self._scored(flight, result)

    def _assessed(self, flight: _Flight, result: Assessing | Completion) -> SampledOutcome | None:
        """Go on to sample the answers, unless the question is to be left out or put off."""
        if isinstance(result, Assessing):
            self._work.judged += result.judged
        verdict = result.verdict if isinstance(result, Assessing) else self._read(result.text)
        flight.assessment = assess_verdict(verdict, flight.plan.difficulty)
        if decide(flight.assessment, flight.plan.difficulty) is not Decision.TRAIN:
            return SampledOutcome(flight.plan, assessment=flight.assessment)
        self._sample(flight)
        return None

    def _read(self, reply: str) -> Verdict | None:
        try:
            return parse_answerable(reply)
        except UnreadableReply:
            self._work.judged["unreadable"] += 1
            return None

    def _scored(self, flight: _Flight, scoring: Scoring) -> SampledOutcome | None:
        self._work.judged += scoring.judged
        if scoring.scored is None:
            return SampledOutcome(flight.plan, failure=scoring.failure, assessment=flight.assessment)
        scored = scoring.scored
        if any(rollout.weight_version < flight.version for rollout in scored.sampled.rollouts):
            self._supervisor.suspect(flight.workers["engine"], "answered from older weights")
            return self._try_again(flight, "older_weights", "answers from weights of an older version")
        self._note_work(flight, ray.get(flight.rendering), scoring)
        names = scored.sampled.clip_hashes
        clips = {names[branch]: clip for branch, clip in flight.clips.items()}
        return SampledOutcome(flight.plan, scored, clips, assessment=flight.assessment)

    def _note_work(self, flight: _Flight, rendering: Rendering, scoring: Scoring) -> None:
        work, workers = self._work, self._config.workers
        work.add(flight.plan, rendering, scoring.scored)
        work.busy_s["corruption"] += rendering.seconds / workers.corruption_count
        work.busy_s["reward"] += scoring.seconds / workers.reward_count
        if rendering.done_at and scoring.began_at:
            spans = work.answering.setdefault(flight.workers["engine"].name, [])
            spans.append((rendering.done_at, scoring.began_at))

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
        asked = "reward" if flight.assessing and flight.plan.difficulty.reading == "judge" else "engine"
        for role, references, phase in (("corruption", [flight.rendering], "decoding and corrupting the clip"),
                                        (asked, flight.answers, "an assessment" if flight.assessing else "sampling answers")):
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            if len(ready) < len(references):
                return flight.workers[role], phase
        return flight.workers["reward"], "scoring answers"

    def prepare(self, plans: Sequence[GroupPlan]) -> Iterator[Prepared]:
        """Start rendering the clips of plans, about which nothing will be asked; yields them in order, waiting for each."""
        calls = [(plan, self._render(plan, self._corruption_worker())) for plan in plans]
        return (self._prepared(plan, *call) for plan, call in calls)

    def _corruption_worker(self) -> Worker:
        while (worker := self._supervisor.choose("corruption")) is None:
            self._supervisor.tick()
            time.sleep(0.05)
        return worker

    @staticmethod
    def _render(plan: GroupPlan, worker: Worker) -> tuple[Any, dict[Branch, Any]]:
        """References to what is known of a plan's clips, and to each."""
        branches = plan.rendered
        rendering, *clips = worker.actor.prepare.options(num_returns=1 + len(branches)).remote(
            plan.sample, plan.corruption, branches, plan.sampling.seed or 0, plan.shuffled_from)
        return rendering, dict(zip(branches, clips, strict=True))

    def _prepared(self, plan: GroupPlan, rendering: Any, clips: Mapping[Branch, Any]) -> Prepared:
        for attempt in range(self._config.workers.max_attempts):
            try:
                hashes = ray.get(rendering, timeout=self._config.workers.group_timeout_s).clip_hashes
            except RayError as error:
                root = error.cause if isinstance(error, RayTaskError) else error
                if isinstance(root, DataError):
                    return Prepared(plan, failure=Failure(root.reason, str(root)))
                problem = cause(error)
                self._retried[self._supervisor.accuse(error, self._supervisor.of("corruption"))] += 1
                self._supervisor.settle("corruption")
                if attempt + 1 < self._config.workers.max_attempts:
                    rendering, clips = self._render(plan, self._corruption_worker())
                continue
            return Prepared(plan, self._prompt(plan.sample), hashes, {hashes[branch]: clip for branch, clip in clips.items()})
        message = f"sample {plan.sample.id}: {self._config.workers.max_attempts} attempts failed: {problem}"
        return Prepared(plan, failure=Failure("infrastructure", message))

    @property
    def judge_engines(self) -> Sequence[Any]:
        """Handles of the engines that judge: of their own, or the rollout engines where the policy judges."""
        return tuple(self._judges) or self.engines

    @property
    def engines(self) -> Sequence[Any]:
        """Handles of the rollout engines."""
        return tuple(self._engines)

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

    def update_weights(self, version: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Have the learner's weights handed to every engine that lives under a version.

        One that Ray is starting anew gets them when it is back, in `poll` or `run`: the others do not wait for it.

        Args:
            meanwhile: called while engines end what they are answering; it may `poll`.
        """
        if self._publish is None:
            raise SquallError("update_weights before connect: nobody has weights to hand over")
        engines = self._supervisor.settle("engine")
        for worker in (*self._supervisor.of("corruption"), *self._supervisor.of("reward")):
            self._supervisor.suspect(worker, "")  # one that died with nothing in its hands is counted too
        processes = [(worker.process, worker.deaths) for worker in engines]
        # One may have died while nothing was asked: another process is another connection.
        lost = self._publish(version, [worker.number for worker in engines], reconnect=processes != self._processes,
                             meanwhile=meanwhile) if engines else {}
        self._processes, self._version = processes, version
        for worker, process in zip(engines, processes, strict=True):
            if worker.number in lost:
                self._supervisor.refused(worker, lost[worker.number])
            elif (worker.process, worker.deaths) == process and worker.state in (WorkerState.HEALTHY, WorkerState.STALE):
                self._supervisor.synced(worker)  # another state, or process, was noticed meanwhile

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
        waited_for = [worker.actor for worker in self._supervisor.workers]
        for actor in (*waited_for, *(actor for _, actors, _ in self._starting for actor in actors), *self._judges):
            ray.kill(actor)


@dataclass(frozen=True, slots=True)
class _BatchKey:
    """Marks what a call of `run` has submitted."""

    batch: object
    position: int
