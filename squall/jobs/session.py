"""What every training job has around its loop: run directory, manifest, plan, cluster, tracker, progress, report."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console

from squall.actors.cluster import Demand, ResourcePlan, start_ray, stop_ray
from squall.actors.engine_config import EngineActorsConfig
from squall.actors.gauges import RayGauges
from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.judge_config import JudgeConfig
from squall.actors.learner import Learner, LearnerConfig, Objective
from squall.actors.logs import messages_of_ray
from squall.actors.reward_worker import Failure
from squall.actors.rollout_engine import EngineConfig
from squall.actors.sampling import GroupSampler
from squall.actors.timeline import actor_spans
from squall.actors.weight_transfer import EngineFleet
from squall.algorithms.corruption import STANDARD_KINDS, CorruptionSpec, Mixture
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig
from squall.jobs import heldout
from squall.jobs.registry import find_job
from squall.jobs.report import build_report
from squall.jobs.resume import (
    ResumePoint,
    StopRequested,
    check_same_run,
    explain_full_disk,
    find_resume_point,
    find_sampling_point,
    fork_point,
    resume_command,
)
from squall.platform.checkpoints import seal
from squall.platform.config import Config, dump_yaml
from squall.platform.errors import FULL_DISK, ConfigError, DataError, SquallError
from squall.platform.hosting import current_host
from squall.platform.live import LiveFile
from squall.platform.manifest import Manifest, load_manifest
from squall.platform.models import ModelConfig, resolve_model_path
from squall.platform.progress import JobProgress, print_results
from squall.platform.prompts import prompt_template
from squall.platform.remote import Output, is_uri, local_folder, open_remote
from squall.platform.report.status import bound
from squall.platform.runs import RunDirectory, append_line, checkpoint_step, default_name, to_json, utc_now
from squall.platform.store import RolloutStore
from squall.platform.trace import Span, write_trace
from squall.platform.tracking import TrackingConfig, open_tracker, read_metrics
from squall.platform.video import FrameSampling


class DataConfig(Config):
    """Training questions and how their clips are read."""

    train: Path
    """Manifest (JSON, JSONL or Parquet) of training questions."""
    prompt_template: str = "video_r1"
    """`video_r1`, `compact`, or a text of your own with {question}, {options} and {instruction}."""
    frames: FrameSampling = FrameSampling()
    """Frame sampling and resolution."""
    cache: Path | None = None
    """Folder for decoded clips; None keeps nothing on disk."""


class CorruptionConfig(Config):
    """Which corruptions training clips pass through; one kind per clip."""

    kinds: tuple[str, ...] | dict[str, float] = STANDARD_KINDS
    """Drawn alike; or with probabilities, {fog: 0.3, night: 0.2}, of which what is missing to 1 is no corruption. An entry is
    a kind or module:function, may have values of its own (fog 0.8 drift=0.1) and be composed (night + light_rain)."""
    severity: tuple[float, float] = (0.4, 0.9)
    """Range from which each clip's severity is drawn uniformly."""

    @model_validator(mode="after")
    def _known(self) -> CorruptionConfig:
        try:
            _ = self.mixture
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def mixture(self) -> Mixture:
        """What clips' corruptions are drawn from."""
        return Mixture.of(self.kinds, self.severity)

    def draw(self, seed: int) -> CorruptionSpec | None:
        """The corruption that belongs to a seed, or none."""
        return self.mixture.draw(seed)


class SessionConfig(Config):
    """What every training job is told."""

    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Output = "runs"
    """Folder that run directories go into; or a URI, s3://bucket/runs: the run works in ./runs and is copied there as it
    goes."""
    resume: bool = False
    """Go on with the run called `name` from its last checkpoint: squall train ... runs/NAME/config.yaml --resume"""
    checkpoint_every_steps: int = Field(0, ge=0)
    """Write a checkpoint every so many steps; 0 writes only the last, and one when the run is interrupted."""
    trace_steps: tuple[int, ...] = ()
    """Steps (from 1) of which to write trace-step-N.json, to be opened in ui.perfetto.dev; each costs some seconds."""
    seed: int = 0
    """Everything random follows from it."""
    start_from: Path | None = None
    """Begin from a checkpoint of another run: its weights, optimiser and place among the questions; steps go on from its."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""
    dashboard: bool = False
    """Serve Ray's dashboard from a local cluster, on the loopback interface; its address is among the first lines."""
    data: DataConfig
    """Training data."""
    model: ModelConfig = ModelConfig()
    """Policy."""
    engine: EngineConfig = EngineConfig()
    """vLLM rollout engines."""
    workers: WorkersConfig = WorkersConfig()
    """Corruption and reward workers."""
    tracking: TrackingConfig = TrackingConfig()
    """TensorBoard and Weights & Biases."""


def refuse_sharded_adapters(model: ModelConfig, learner: LearnerConfig) -> None:
    """Raise ValueError for a model and a learner that do not go together."""
    if model.lora is not None and learner.optimiser.zero_stage == 3:
        raise ValueError("model.lora with learner.optimiser.zero_stage 3: adapters cannot be merged into sharded weights; "
                         "take zero_stage 2")


class Session:
    """A job in progress. Everything that can be refused is refused in `__init__`, before any actor starts."""

    def __init__(self, config: SessionConfig, job: str, total_steps: int) -> None:
        """`job` is the command's name in the registry, such as ``train tgrpo``."""
        self.config, self.job = config, find_job(job)
        self.console = Console()
        self.started = time.monotonic()
        self.model_path = resolve_model_path(config.model.path)
        prompt_template(config.data.prompt_template)
        self.manifest = self._load(config.data.train, "data.train")
        if config.resume and config.name is None:
            raise ConfigError("--resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        self.dropped: Counter[str] = Counter(rejection.reason for rejection in self.manifest.rejected)
        name = config.name or (default_name(self.job.command[-1]) if is_uri(config.output) else None)
        self._remote = open_remote(config.output, name, config.resume, self._tell)
        self.run = RunDirectory.create(local_folder(config.output), self.job.command[-1], name, resume=config.resume)
        self._stack = ExitStack()
        self._stack.callback(self.run.lock().close)
        self._changes = check_same_run(config, self.run) if config.resume else ()
        self.run.sweep()
        self.resumed = self._starting_point()
        again = self.run.rewind(self.resumed.step) if config.resume else 0
        if config.resume:
            self.run.event("resumed", step=self.resumed.step, steps_done_again=again)
            self._count_earlier_drops()
        self.steps_done = self.resumed.step
        self.first_step = 0 if config.start_from is None else checkpoint_step(config.start_from)
        """Steps that were done before this run began."""
        home = config.output if is_uri(config.output) else str(self.run.path.parent)
        kept = {"name": self.run.name, "output": home, "resume": False}
        self.run.write_config(f"job: {self.job.name}\n" + dump_yaml(config.model_copy(update=kept)))
        self.run.write_provenance(config.seed)
        self.store = RolloutStore(self.run.rollouts)
        self.seconds: Counter[str] = Counter()
        self.progress = JobProgress(f"squall {self.job.command[-1]} {self.run.name}", total_steps,
                                    done_steps=self.steps_done, console=self.console, log=self._log("driver"))
        self._total_steps = total_steps
        self._step_phases: Counter[str] = Counter()
        self._step_started = time.monotonic()
        self._spans: list[Span] = []
        self._reasons_told: set[str] = set()
        self._stop_requested = False
        self._began = False
        """Whether the cluster has taken the plan."""
        self._host = current_host()

    def _starting_point(self) -> ResumePoint:
        """The run's own last checkpoint when it is resumed, the checkpoint that it is to start from, or the beginning."""
        config = self.config
        if config.resume and (config.start_from is None or self.run.latest_checkpoint() is not None):
            return (find_sampling_point if getattr(config, "rollouts_only", False) else find_resume_point)(self.run)
        return ResumePoint() if config.start_from is None else fork_point(config.start_from)

    def _count_earlier_drops(self) -> None:
        """What the steps of a resumed run lost before, so that its results count all of them."""
        for row in read_metrics(self.run.metrics):
            for name, count in row.items():
                if name.startswith("dropped/"):
                    self.dropped[name.removeprefix("dropped/")] += int(count)

    def _load(self, path: Path, key: str) -> Manifest:
        if not path.is_file():
            raise ConfigError(f"{key} = {path}: no such manifest; `squall data embedded` writes the embedded one")
        manifest = load_manifest(path, on_error="collect")
        if not manifest.samples:
            first = manifest.rejected[0].message if manifest.rejected else f"{path}: no records"
            raise DataError(f"{key}: no usable record; the first problem: {first}")
        return manifest

    def _log(self, role: str) -> Callable[[str], None]:
        """What appends a line to the log of a role."""
        return lambda line: append_line(self.run.logs / f"{role}.log", f"{utc_now()} {line}")

    def _tell(self, text: str) -> None:
        """Show what was found out beside the run's own work."""
        if hasattr(self, "progress"):
            self.progress.note(text)
        else:
            print(text, flush=True)

    def __enter__(self) -> Session:
        self._stack.enter_context(self.progress)
        for note in (*self._changes, *self.resumed.notes):
            self.progress.note(note)
        self.run.event("started", job=self.job.name, steps=self._total_steps, notes=self.job.report_section(self.config))
        for rejection in self.manifest.rejected:
            self.run.event("sample_rejected", reason=rejection.reason, sample=rejection.sample_id, message=rejection.message)
        if self.manifest.rejected:
            self.progress.note(f"{len(self.manifest.rejected)} of the manifest's records cannot be used, counted in the "
                               f"report; the first: {self.manifest.rejected[0].message}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is not None:
            with suppress(OSError):  # the disk may be full
                self.run.event("stopped", error=f"{type(error).__name__}: {error}")
        self._stack.close()
        last = self.run.latest_checkpoint()
        if error is not None and not (self._began or self.config.resume or last):  # nothing to keep, and the name stays free
            shutil.rmtree(self.run.path, ignore_errors=True)
            if self._remote is not None:
                self._remote.forget()
        self._close_remote(error)
        if error is not None and last is not None:
            self.console.print(f"resume with: {resume_command(self.job.name, self.run)}", soft_wrap=True, highlight=False)
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise explain_full_disk(error, self.run) from error

    def _close_remote(self, error: BaseException | None) -> None:
        """Copy what is left; a failure to do so does not hide what the run itself ended with."""
        if self._remote is None or not self._remote.started:
            return
        try:
            self._remote.close()
        except SquallError as failure:
            if error is None:
                raise
            self.console.print(str(failure), soft_wrap=True, highlight=False)
        else:
            self.console.print(f"copied to {self._remote.uri}", soft_wrap=True, highlight=False)

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks to stop, the second stops at once. Enter it late: ray.init sets handlers too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self._stop_requested:
                raise KeyboardInterrupt
            self._stop_requested = True
            self.progress.note(f"{signal.Signals(number).name}: stopping after what the learner is doing, with a checkpoint; "
                               "once more to stop at once")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def check_stop(self) -> None:
        """Raise StopRequested after a first Ctrl-C or SIGTERM. Call it where nothing would be lost."""
        if self._stop_requested or self._host.stop.is_set():
            raise StopRequested

    @contextmanager
    def stops_well(self, learner: Learner | None, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Inside the block StopRequested ends the run with a checkpoint and the command to resume it."""
        try:
            with self._signals_handled():
                yield
        except StopRequested:
            self.save(learner, state())
            self._note_workers(self.steps_done)
            self.run.event("interrupted", step=self.steps_done)
            self.progress.note(f"stopped after step {self.steps_done} of {self._total_steps}; resume with: "
                               f"{resume_command(self.job.name, self.run)}")
        except SquallError:
            if learner is not None and learner.idle:  # what failed was another's: keep what was learned
                with suppress(SquallError, OSError):
                    self.save(learner, state())
            raise

    def save(self, learner: Learner | None, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of the steps done so far; nothing to do when there is one, or no step yet, or no learner.

        Args:
            state: what the job needs to go on, as JSON.
        """
        last = self.run.latest_checkpoint()
        if learner is None or not self.steps_done or (last is not None and checkpoint_step(last) == self.steps_done):
            return
        with self.phase("checkpoint"), self.run.checkpoint(self.steps_done) as path:
            learner.save(path)
            seal(path, {"step": self.steps_done, "config": self.config.model_dump(mode="json"), **state})
        if self._remote is not None:
            self._remote.hurry()

    def save_if_due(self, learner: Learner | None, state: Mapping[str, Any]) -> None:
        """End a step: write a checkpoint after the last one, and every `checkpoint_every_steps`."""
        every = self.config.checkpoint_every_steps
        if self.steps_done == self._total_steps or (every and self.steps_done % every == 0):
            self.save(learner, state)
        self._host.settled()

    def start(self, demands: Sequence[Demand], lines: Sequence[str]) -> None:
        """Write and show the plan, join or start the cluster, and refuse a plan that it cannot hold."""
        plan = ResourcePlan(tuple(demands))
        text = "\n".join([*lines, *plan.lines()])
        self.run.write_plan(text + "\n")
        self.progress.note(f"run directory {self.run.path}")
        for line in text.splitlines():
            self.progress.note(line)
        with self.phase("start"):
            cluster = start_ray(self.config.ray_address, dashboard=self.config.dashboard)
            self._stack.callback(stop_ray)
            self._stack.enter_context(messages_of_ray(self._log("ray")))
            plan.check(cluster)
        self._began = True
        if self._remote is not None:
            self._remote.start(self.run.path)
        if cluster.dashboard_url:
            self.progress.note(f"Ray dashboard http://{cluster.dashboard_url}")
        self.gauges = RayGauges(self.run.name)
        self.gauges.set("steps", self._total_steps)
        self.live = LiveFile(self.run.live)
        self.progress.on_phase = self._on_phase
        self.tracker = open_tracker(self.run.path, self.config.tracking, self.config.model_dump(mode="json"), [self.gauges],
                                    self._host.sinks)
        if self.steps_done:
            done = f"{self.steps_done} of {self._total_steps} steps done"
            start = self.resumed.checkpoint.name if self.resumed.checkpoint else "what it stored"
            self.progress.note(f"resumed from {start}: {done}")
        self._stack.callback(self.tracker.close)

    def start_sampler(self, rewards: RewardConfig, engines: bool = True, judge: JudgeConfig | None = None,
                      needs_judge: bool = False) -> GroupSampler:
        """Start corruption workers, reward workers and engines; without `engines` the corruption workers alone."""
        config = self.config
        with self.phase("engines"):
            sampler = GroupSampler(SamplerConfig(
                run_id=self.run.name, model_path=self.model_path, model=config.model, engine=config.engine,
                workers=config.workers, frames=config.data.frames, cache=config.data.cache,
                prompt_template=config.data.prompt_template, rewards=rewards, judge=judge or JudgeConfig(),
                ledger=self.run.path.absolute() / "judge.sqlite", needs_judge=needs_judge, logs=self.run.logs),
                on_state=self._on_state)
            self._stack.callback(sampler.stop)
            sampler.start(engines)
        self.sampler = sampler
        return sampler

    def _on_phase(self, phase: str) -> None:
        self.gauges.phase(phase)
        self.live.phase(phase)

    def _on_state(self, worker: str, state: str) -> None:
        self.gauges.state(worker, state)
        self.live.state(worker, state)

    def start_learner(self, learner: LearnerConfig, objective: Objective, *, tgrpo: TGRPOConfig | None = None,
                      rewards: RewardConfig | None = None, temperature: float = 1.0) -> Learner:
        """Start the Ray Train workers and wait until they hold the model."""
        with self.phase("learner"):
            model = self.config.model.model_copy(update={"path": self.model_path})  # workers run in other directories
            engine = self.config.engine
            fleet = EngineFleet(self.sampler.engines, engine.tensor_parallel_size, model.train_vision, engine.request_timeout_s)
            handle = Learner(learner, model, objective, self.run.path, total_steps=self._total_steps, tgrpo=tgrpo,
                             rewards=rewards, temperature=temperature, seed=self.config.seed, fleet=fleet,
                             weight_transfer=engine.weight_transfer, resume=self.resumed.checkpoint)
            self._stack.callback(handle.stop)
            handle.start()
            self.sampler.connect(handle.publish)
            if self.resumed.checkpoint and self.sampler.engines:
                self.sampler.update_weights(self.steps_done)
        return handle

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show and time a phase; its seconds go into the step's metrics and the run's totals."""
        started, began = time.monotonic(), time.time()
        with self.progress.phase(name):
            yield
        elapsed = time.monotonic() - started
        self._spans.append(Span("driver", name, began, began + elapsed))
        self.seconds[name] += elapsed
        self._step_phases[name] += elapsed

    def begin_step(self) -> None:
        """Forget the phase times of what came before."""
        self._step_phases.clear()
        self._spans.clear()
        self._step_started = time.monotonic()
        self.sampler.idle_seconds()
        self.sampler.take_work()
        self.progress.begin_step()

    def record_step(self, step: int, metrics: Mapping[str, float],
                    learner_spans: Sequence[tuple[str, float, float]] = ()) -> None:
        """Log one finished step (counted from 1), with its phase times, idle shares, retries and what befell workers.

        Args:
            learner_spans: (name, start, end) of what the learner did, seconds since the epoch, for the step's trace.
        """
        elapsed = time.monotonic() - self._step_started
        own = {f"time/{phase}": seconds for phase, seconds in self._step_phases.items()}
        own["seconds_per_step"] = elapsed
        own["idle/trainer"] = 1.0 - min(1.0, self._step_phases["learn"] / elapsed)
        if self.sampler.engines:
            own["idle/rollout"] = min(1.0, self.sampler.idle_seconds() / elapsed)
        own |= self.sampler.take_work().metrics(elapsed)
        own |= {f"retried/{reason}": count for reason, count in self.sampler.take_retries().items()}
        self._note_workers(step)
        self.tracker.log(step, {**own, **metrics})
        self.gauges.set("step", step)
        for name, value in metrics.items():
            if name.startswith("dropped/"):
                self.drop(name.removeprefix("dropped/"), int(value))
        self.steps_done = step
        self.progress.step(step, metrics)
        if step in self.config.trace_steps:
            self._write_trace(step, learner_spans)

    def _note_workers(self, step: int) -> None:
        for change in self.sampler.take_changes():
            self.run.event("worker", time=change.time, step=step, worker=change.worker, before=change.before,
                           after=change.after, reason=change.reason)

    def _write_trace(self, step: int, learner_spans: Sequence[tuple[str, float, float]]) -> None:
        driver = list(self._spans)
        start, end = driver[0].start, driver[-1].end
        spans = [*driver, *(Span("learner", *span) for span in learner_spans), *actor_spans(start, end)]
        path = write_trace(self.run.path / f"trace-step-{step:06d}.json", spans)
        self.progress.note(f"trace of step {step}: {path} (open it in https://ui.perfetto.dev)")

    def consume(self, step: int, outcomes: Sequence[tuple[str, str]]) -> None:
        """Enter a step's questions, (group id, what came of it), into consumed.jsonl: each is there once, whatever happened."""
        append_line(self.run.consumed, to_json({"step": step, "groups": dict(outcomes)}))

    def lose(self, group_id: str, failure: Failure) -> None:
        """Keep why a group could not be sampled: every one as an event, the first of each reason on the terminal too."""
        self.run.event("group_lost", group=group_id, reason=failure.reason, message=failure.message)
        if failure.reason not in self._reasons_told:
            self._reasons_told.add(failure.reason)
            self.progress.note(f"group lost ({failure.reason}; more of it in events.jsonl): {failure.message}")

    def drop(self, reason: str, count: int = 1) -> None:
        """Count groups or samples that were lost, for the terminal and the report."""
        self.dropped[reason] += count
        self.progress.drop(reason, count)

    def questions(self, evaluation: heldout.EvaluationConfig, kinds: Sequence[str]) -> list[GroupPlan]:
        """Plans of the held-out questions; empty when the configuration names no held-out manifest."""
        if evaluation.manifest is None:
            return []
        held = self._load(evaluation.manifest, "evaluation.manifest")
        for rejection in held.rejected:
            self.dropped[f"heldout_{rejection.reason}"] += 1
        return heldout.plan_questions(evaluation, held.samples, kinds)

    def evaluate(self, questions: Sequence[GroupPlan], step: int) -> heldout.HeldOutAnswers | None:
        """Ask the held-out questions; logs the accuracies at `step`. What a resumed run asked before is read from disk."""
        if not questions:
            return None
        if step < self.steps_done:
            return self._earlier_answers(step)
        with self.phase("evaluate"):
            answers, lost = heldout.evaluate(self.sampler, questions, self.check_stop)
        heldout.save(answers, self.run.heldout, step)
        for reason, count in lost.items():
            self.drop(f"heldout_{reason}", count)
        figures = heldout.accuracies(answers)
        self.tracker.log(step, figures)
        self._host.settled()
        self.progress.note("held-out accuracy: " + ", ".join(f"{n.removeprefix('heldout/')} {v:.1%}"
                                                             for n, v in figures.items()))
        return answers

    def evaluation_due(self, evaluation: heldout.EvaluationConfig) -> bool:
        """Whether the held-out questions are to be asked in the middle of training, every `evaluation.every_steps`."""
        every = evaluation.every_steps
        return bool(every) and self.steps_done % every == 0 and self.steps_done < self._total_steps

    def _earlier_answers(self, step: int) -> heldout.HeldOutAnswers | None:
        try:
            return heldout.load(self.run.heldout, step)
        except DataError as error:
            self.progress.note(f"no held-out comparison: {error}")
            return None

    def finish(self, before: heldout.HeldOutAnswers | None, after: heldout.HeldOutAnswers | None) -> dict[str, Any]:
        """Write results.json and report.html, and print the result."""
        results: dict[str, Any] = {"seed": self.config.seed}
        if before is not None and after is not None:
            results = heldout.compare(before, after, self.config.seed)
        results["dropped"] = dict(self.dropped)
        results["seconds"] = {**{name: round(value, 1) for name, value in self.seconds.items()},
                              "total": round(time.monotonic() - self.started, 1)}
        self.run.write_json(self.run.results.name, results)
        self.run.event("finished", seconds=results["seconds"]["total"])
        page = build_report(self.run)
        if before is not None and after is not None:
            print_results(results, self.console)
        if bounded := bound(read_metrics(self.run.metrics), getattr(self.config, "max_staleness", 0)):
            self.console.print(bounded, soft_wrap=True, highlight=False)
        self.console.print(f"report: {page}", soft_wrap=True)
        return results


def rollout_demands(engine: EngineActorsConfig, workers: WorkersConfig, engines: bool = True) -> list[Demand]:
    """What engines, corruption workers and reward workers reserve on the cluster; without `engines` nothing is asked."""
    corruption = Demand("corruption worker", workers.corruption_count, workers.corruption_cpus, 0.0)
    if not engines:
        return [corruption]
    return [Demand("engine", engine.count, engine.cpus, engine.gpus), corruption,
            Demand("reward worker", workers.reward_count, workers.reward_cpus, 0.0)]


def judge_demand(judge: JudgeConfig) -> Demand:
    """What a judge's own engines reserve on the cluster."""
    return Demand("judge engine", judge.engine.count, judge.engine.cpus, judge.engine.gpus)


def learner_demand(learner: LearnerConfig) -> Demand:
    """What the learner's Ray Train workers reserve on the cluster."""
    return Demand("learner worker", learner.workers, learner.cpus, learner.gpus)
