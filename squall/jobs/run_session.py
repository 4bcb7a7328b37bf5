"""What every training job has around its loop: run directory, checkpoints, resumption, cluster, tracker, progress, signals."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import isinf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field
from rich.console import Console

from squall.actors.cluster import cluster_resources, start_ray, stop_ray
from squall.actors.gauges import RayGauges
from squall.actors.logs import messages_of_ray
from squall.actors.node_checks import Needs, find_problems
from squall.actors.placement import Placement, PlacementConfig
from squall.actors.resources import ClusterResources, Demand, ResourcePlan
from squall.actors.shared_paths import Wanted, check_paths
from squall.actors.worker_group import LearnerLost, WorkerGroup
from squall.jobs.drains import Drain, DrainWatch
from squall.jobs.registry import find_job
from squall.jobs.report import build_report
from squall.jobs.resume import (
    ResumePoint,
    StopRequested,
    check_same_run,
    explain_full_disk,
    find_resume_point,
    fork_point,
    resume_command,
)
from squall.platform.checkpoints import seal
from squall.platform.config import Config, dump_yaml
from squall.platform.errors import FULL_DISK, ConfigError, Preempted, ResourceError, SquallError
from squall.platform.hosting import current_host
from squall.platform.live import LiveFile
from squall.platform.progress import JobProgress
from squall.platform.remote import Output, is_uri, local_folder, open_remote
from squall.platform.runs import RunDirectory, append_line, checkpoint_step, default_name, utc_now
from squall.platform.trace import Span
from squall.platform.tracking import TrackingConfig, open_tracker


class RunSessionConfig(Config):
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
    seed: int = 0
    """Everything random follows from it."""
    start_from: Path | None = None
    """Begin from a checkpoint of another run: its weights, optimiser and place among the data; steps go on from its."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""
    dashboard: bool = False
    """Serve Ray's dashboard from a local cluster, on the loopback interface; its address is among the first lines."""
    placement: PlacementConfig = PlacementConfig()
    """Nodes of a cluster: which roles go where, how long they may take to come."""
    tracking: TrackingConfig = TrackingConfig()
    """TensorBoard and Weights & Biases."""


class RunSession:
    """A job in progress, whatever it trains. Nothing of the cluster is touched before `start`."""

    def __init__(self, config: RunSessionConfig, job: str, total_steps: int) -> None:
        """`job` is the command's name in the registry, such as ``train tgrpo``."""
        self.config, self.job = config, find_job(job)
        self.console = Console()
        self.started = time.monotonic()
        if config.resume and config.name is None:
            raise ConfigError("--resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
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
        self.steps_done = self.resumed.step
        self.first_step = 0 if config.start_from is None else checkpoint_step(config.start_from)
        """Steps that were done before this run began."""
        home = config.output if is_uri(config.output) else str(self.run.path.parent)
        kept = {"name": self.run.name, "output": home, "resume": False}
        self.run.write_config(f"job: {self.job.name}\n" + dump_yaml(config.model_copy(update=kept)))
        self.run.write_provenance(config.seed)
        self.seconds: Counter[str] = Counter()
        self.progress = JobProgress(f"squall {self.job.command[-1]} {self.run.name}", total_steps,
                                    done_steps=self.steps_done, console=self.console, log=self._log("driver"))
        self._total_steps = total_steps
        self._step_phases: Counter[str] = Counter()
        self._spans: list[Span] = []
        self._stop_requested = self._save_soon = False
        self._last_seconds: dict[str, float] = {}
        self._drains = DrainWatch(set)
        self._drained: Drain | None = None
        """The node because of which the run ends."""
        self._began = False
        """Whether the cluster has taken the plan."""
        self._host = current_host()

    def _starting_point(self) -> ResumePoint:
        """The run's own last checkpoint when it is resumed, the checkpoint that it is to start from, or the beginning."""
        config = self.config
        if config.resume and (config.start_from is None or self.run.latest_checkpoint() is not None):
            return self._own_point()
        return ResumePoint() if config.start_from is None else fork_point(config.start_from)

    def callback(self, end: Callable[[], None]) -> None:
        """Call this when the session ends, before what was started earlier is ended."""
        self._stack.callback(end)

    def _own_point(self) -> ResumePoint:
        """Where this run itself goes on."""
        return find_resume_point(self.run)

    def _log(self, role: str) -> Callable[[str], None]:
        """What appends a line to the log of a role."""
        return lambda line: append_line(self.run.logs / f"{role}.log", f"{utc_now()} {line}")

    def _tell(self, text: str) -> None:
        """Show what was found out beside the run's own work."""
        if hasattr(self, "progress"):
            self.progress.note(text)
        else:
            print(text, flush=True)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.progress)
        for note in (*self._changes, *self.resumed.notes):
            self.progress.note(note)
        self.run.event("started", job=self.job.name, steps=self._total_steps, notes=self.job.report_section(self.config))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is not None:
            with suppress(OSError):  # the disk may be full
                self.run.event("stopped", error=f"{type(error).__name__}: {error}")
        self._stack.close()
        if isinstance(error, LearnerLost):
            error.run = self.run.path
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
            self.progress.note(f"{signal.Signals(number).name}: stopping after what the learner is doing, with a checkpoint"
                               f"{self._stop_takes()}; once more to stop at once")

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
        for drain in self._drains.look():
            ends = "the run ends with a checkpoint" if drain.needed else "the run goes on, with a checkpoint after this step"
            self.progress.note(f"{drain.sentence}; {ends}{self._stop_takes()}")
            self.run.event("draining", node=drain.node, seconds_left=None if isinf(drain.left_s) else round(drain.left_s, 1),
                           needed=drain.needed)
            self._save_soon = True
            if drain.needed:
                self._drained = drain
        if self._drained is not None:
            raise StopRequested

    def _stop_takes(self) -> str:
        """How long it may take until a checkpoint is there, by how long the last step and checkpoint took."""
        parts = {name: self._last_seconds[name] for name in ("learn", "sync", "checkpoint") if name in self._last_seconds}
        if not parts:
            return ""
        return f", within some {sum(parts.values()):.0f} s ({', '.join(f'{name} {s:.1f} s' for name, s in parts.items())})"

    @contextmanager
    def stops_well(self, learner: WorkerGroup | None, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Inside the block StopRequested ends the run with a checkpoint and the command to resume it."""
        if learner is not None:
            self._drains = DrainWatch(learner.nodes)
        try:
            with self._signals_handled():
                yield
        except StopRequested:
            self.save(learner, state())
            self._note_workers(self.steps_done)
            self.run.event("interrupted", step=self.steps_done)
            if self._drained is not None:
                kept = "with a checkpoint" if self.run.latest_checkpoint() else "with nothing to keep yet: start it again"
                raise Preempted(f"{self._drained.sentence}; stopped after step {self.steps_done} of {self._total_steps}, "
                                f"{kept}") from None
            self.progress.note(f"stopped after step {self.steps_done} of {self._total_steps}; resume with: "
                               f"{resume_command(self.job.name, self.run)}")
        except SquallError:
            if learner is not None and learner.idle:  # what failed was another's: keep what was learned
                with suppress(SquallError, OSError):
                    self.save(learner, state())
            raise

    def _note_workers(self, step: int) -> None:
        """Record what befell workers up to a step, for jobs that watch theirs."""

    def save(self, learner: WorkerGroup | None, state: Mapping[str, Any]) -> None:
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

    def save_if_due(self, learner: WorkerGroup | None, state: Mapping[str, Any]) -> None:
        """End a step: write a checkpoint after the last one, and every `checkpoint_every_steps`."""
        every = self.config.checkpoint_every_steps
        if self.steps_done == self._total_steps or self._save_soon or (every and self.steps_done % every == 0):
            self._save_soon = False
            self.save(learner, state)
        self._host.settled()

    def start(self, demands: Sequence[Demand], lines: Sequence[str], needs: Needs | None = None) -> None:
        """Write and show the plan, join or start the cluster, and refuse a plan that it cannot hold."""
        plan = ResourcePlan(tuple(self.config.placement.tie(demands)))
        text = "\n".join([*lines, *plan.lines()])
        self.run.write_plan(text + "\n")
        self.progress.note(f"run directory {self.run.path}")
        for line in text.splitlines():
            self.progress.note(line)
        with self.phase("start"):
            cluster = start_ray(self.config.ray_address, dashboard=self.config.dashboard)
            self._stack.callback(stop_ray)
            self._stack.enter_context(messages_of_ray(self._log("ray")))
            self.gauges = RayGauges(self.run.name)
            self._stack.callback(self.gauges.close)
            self.gauges.set("steps", self._total_steps)  # before nodes are waited for: a run that does is not gone
            self._reserve(plan, cluster)
            self._check_nodes(needs or Needs())
            if len((nodes := cluster_resources()).nodes) > 1:
                check_paths(nodes, plan, self._read_on_nodes(), self.config.placement.node_timeout_s)
        self._began = True
        if self._remote is not None:
            self._remote.start(self.run.path)
        if cluster.dashboard_url:
            self.progress.note(f"Ray dashboard http://{cluster.dashboard_url}")
        self.live = LiveFile(self.run.live)
        self.progress.on_phase = self._on_phase
        self.tracker = open_tracker(self.run.path, self.config.tracking, self.config.model_dump(mode="json"), [self.gauges],
                                    self._host.sinks)
        if self.steps_done:
            done = f"{self.steps_done} of {self._total_steps} steps done"
            start = self.resumed.checkpoint.name if self.resumed.checkpoint else "what it stored"
            self.progress.note(f"resumed from {start}: {done}")
        self._stack.callback(self.tracker.close)

    def _reserve(self, plan: ResourcePlan, cluster: ClusterResources) -> None:
        """Reserve a place for every actor; of workers that may be fewer, say how many there are."""
        self.placement = Placement(self.run.name)
        self._stack.callback(self.placement.remove)
        found = self.placement.reserve(plan, cluster, self.config.placement.timeout_s, self.progress.note)
        for asked, got in zip(plan.demands, found.demands, strict=True):
            if got.count < asked.count:
                self.progress.note(f"{got.role}: {got.count} of {asked.count}, for which the cluster has room")
                self.run.event("fewer_workers", role=got.role, count=got.count, wanted=asked.count)

    def _read_on_nodes(self) -> Wanted:
        """Files that actors read on their own nodes."""
        return {}

    def _check_nodes(self, needs: Needs) -> None:
        """Refuse nodes on which the run would fail later; of a cluster of this process's own, say what may be slow."""
        cluster = cluster_resources()
        found = find_problems(cluster, self.placement, self.config.placement, needs, self.run.path.absolute())
        if found and not cluster.started_here:
            more = f" ({len(found) - 1} more: {'; '.join(found[1:3])})" if len(found) > 1 else ""
            raise ResourceError(found[0] + more)
        for problem in found:
            self.progress.note(problem)

    def _on_phase(self, phase: str) -> None:
        self.gauges.phase(phase)
        self.live.phase(phase)

    def _on_state(self, worker: str, state: str) -> None:
        self.gauges.state(worker, state)
        self.live.state(worker, state)

    def _on_wait(self, text: str) -> None:
        self.progress.note(text)
        self.run.event("waiting", message=text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show and time a phase; its seconds go into the step's metrics and the run's totals."""
        started, began = time.monotonic(), time.time()
        with self.progress.phase(name):
            yield
        elapsed = time.monotonic() - started
        self._spans.append(Span("driver", name, began, began + elapsed))
        self.seconds[name] += elapsed
        self._last_seconds[name] = elapsed
        self._step_phases[name] += elapsed

    def write_results(self, results: dict[str, Any]) -> Path:
        """Add what the phases took to the results, write results.json and the report; returns the page."""
        results["seconds"] = {**{name: round(value, 1) for name, value in self.seconds.items()},
                              "total": round(time.monotonic() - self.started, 1)}
        self.run.write_json(self.run.results.name, results)
        self.run.event("finished", seconds=results["seconds"]["total"])
        return build_report(self.run)
