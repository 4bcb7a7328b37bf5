"""`squall replay RUN --step N`: do one step of a run again from disk and compare every number, bit by bit.

The learner starts from the checkpoint before the step (for step 1 from the starting model), gets the stored answers and the
same clips rendered anew, and makes the step. Same machine, same worker and thread counts: the same bits.
"""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.groups import SamplerConfig
from squall.actors.learner import Learner
from squall.actors.resources import ResourcePlan
from squall.actors.sampling import GroupSampler
from squall.jobs.rollout_stream import ReplayStream
from squall.jobs.session import learner_demand, rollout_demands
from squall.jobs.step_metrics import learner_metrics
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.jobs.train_batch import train_batch
from squall.platform.checkpoints import read_state
from squall.platform.config import Config, load_config, validate
from squall.platform.errors import SquallError
from squall.platform.models import resolve_model_path
from squall.platform.runs import RunDirectory, checkpoint_step
from squall.platform.tracking import read_metrics


class ReplayConfig(Config):
    """Which step of which run."""

    run: Path
    """Run directory of `squall train tgrpo`."""
    step: int = Field(1, ge=1)
    """Step to do again, counted from 1; the checkpoint of the step before it must have been kept."""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""


def run(config: ReplayConfig) -> int:
    """Print recorded and replayed numbers side by side. Exit status 0 when all are equal, else 1."""
    run = RunDirectory.open(config.run)
    recorded = recorded_step(run, config.step)
    checkpoint = starting_point(run, config.step)
    job = job_of(run, config.step)
    console = Console()
    start = checkpoint.name if checkpoint else "the starting model"
    console.print(f"step {config.step} of {run.name} again, from {start}", soft_wrap=True, highlight=False)
    after = run.checkpoints / f"step-{config.step:06d}"
    with tempfile.TemporaryDirectory(prefix="squall-replay-") as folder:
        replayed = replay_step(job, config, run, checkpoint, Path(folder), save=after.is_dir())
        equal = print_comparison(console, recorded, replayed)
        if after.is_dir():
            names = sorted(path.name for path in after.glob("*.safetensors"))
            same = filecmp.cmpfiles(after, Path(folder) / "weights", names, shallow=False)[0] == names
            verdict = "the same bytes as" if same else "other bytes than"
            console.print(f"weights after the step: {verdict} {after.name}", highlight=False)
            equal = equal and same
    console.print("every number is equal" if equal else "not equal: see above; another machine, thread count or version?")
    return 0 if equal else 1


def recorded_step(run: RunDirectory, step: int) -> dict[str, Any]:
    """The step's row of metrics.jsonl. Raises SquallError when the run has not done it."""
    rows = {row["step"]: row for row in read_metrics(run.metrics) if "loss" in row}
    if step not in rows:
        done = f"steps 1 to {max(rows)} are" if rows else "no step is"
        raise SquallError(f"{run.path}: step {step} is not recorded; {done}")
    return rows[step]


def starting_point(run: RunDirectory, step: int) -> Path | None:
    """The checkpoint that a step started from, None for the starting model. Raises SquallError when it was not kept."""
    if step == 1:
        return None
    checkpoint = run.checkpoints / f"step-{step - 1:06d}"
    if not checkpoint.is_dir():
        kept = sorted(int(path.name.removeprefix("step-")) + 1 for path in run.finished_checkpoints())
        raise SquallError(f"{run.path}: the checkpoint of step {step - 1} was not kept, so step {step} cannot be done again; "
                          f"steps that can: {', '.join(str(number) for number in [1, *kept])}")
    read_state(checkpoint)
    return checkpoint


def job_of(run: RunDirectory, step: int) -> TGRPOJobConfig:
    """The configuration that a step was made with: a later resume may have changed the run's."""
    after = [path for path in reversed(run.finished_checkpoints()) if checkpoint_step(path) >= step]
    stored = read_state(after[0]).get("config") if after else None
    return validate(TGRPOJobConfig, stored, where=str(run.config)) if stored else load_config(TGRPOJobConfig, run.config)


def replay_step(job: TGRPOJobConfig, config: ReplayConfig, run: RunDirectory, checkpoint: Path | None, folder: Path,
                save: bool) -> dict[str, float]:
    """Make the step on a cluster; returns its numbers, and with `save` leaves the weights after it in ``folder/weights``."""
    name, model_path = folder.name, resolve_model_path(job.model.path)
    with ExitStack() as stack:
        cluster = start_ray(config.ray_address)
        stack.callback(stop_ray)
        ResourcePlan((*rollout_demands(job.engine, job.workers, engines=False), learner_demand(job.learner))).check(cluster)
        sampler = GroupSampler(SamplerConfig(
            run_id=name, model_path=model_path, model=job.model, engine=job.engine, workers=job.workers,
            frames=job.data.frames, cache=job.data.cache, prompt_template=job.data.prompt_template, rewards=job.rewards))
        stack.callback(sampler.stop)
        sampler.start(engines=False)
        model = job.model.model_copy(update={"path": model_path})
        learner = Learner(job.learner, model, "tgrpo", folder, total_steps=job.steps, tgrpo=job.tgrpo,
                          rewards=job.rewards, temperature=job.temperature, seed=job.seed, resume=checkpoint)
        stack.callback(learner.stop)
        learner.start()
        batch = ReplayStream(run.path, config.step - 1, sampler, job.rewards).collect(lambda: None)
        result = learner.step(train_batch(job, config.step - 1, batch.groups, batch.clips))
        if save:
            (folder / "weights").mkdir()
            learner.save(folder / "weights")
    return learner_metrics(result)


def print_comparison(console: Console, recorded: Mapping[str, Any], replayed: Mapping[str, float]) -> bool:
    """Print each number of the learner as it was and as it is now; returns whether all are equal."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("", "recorded", "replayed", ""):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    equal = True
    for name, value in replayed.items():
        same = recorded.get(name) == value
        equal = equal and same
        table.add_row(name, repr(recorded.get(name)), repr(value), "equal" if same else "[bold red]differs[/]")
    console.print(table)
    return equal
