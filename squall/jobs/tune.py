"""Sweep any job of Squall: search keys of its configuration with Ray Tune and write the best one as a runnable file."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, model_validator

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.logs import messages_of_ray
from squall.actors.resources import ResourcePlan
from squall.jobs.ablation import ROW, Row, entries, row_values, show_rows
from squall.jobs.registry import Job, find_job
from squall.jobs.search_space import as_grid, examples, parse_space, size_of_grid
from squall.platform.config import Config, set_key, validate
from squall.platform.errors import ConfigError, ResourceError, SquallError, nearest
from squall.platform.remote import Output, RemoteCopy, local_folder, open_remote
from squall.platform.report.sweep import Trial, write_sweep_page
from squall.platform.runs import RunDirectory, append_line, default_name, from_here, to_json, utc_now, write_text
from squall.platform.tracking import read_metrics

SLOTS = "node:__internal_head__"
"""Resource of which a cluster has one, at its head, where the trials' drivers run: it is shared out among the trials that run
at the same time. The job's actors reserve their own, outside of it."""
OWN_KEYS = ("name", "output", "resume", "ray_address")
"""Keys of the sweep that jobs have too; a trial gets its own."""


class SweepConfig(Config):
    """How the space is searched."""

    metric: str = "heldout/corrupted"
    """What makes a trial good: a name in metrics.jsonl. Held-out figures come before and after training, and every
    `evaluation.every_steps`."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""
    trials: int = Field(8, ge=1)
    """Configurations to try; a grid tries each combination once and needs no number."""
    search: Literal["random", "grid", "optuna"] = "random"
    """How the next configuration is found; optuna (TPE) learns from the trials before."""
    scheduler: Literal["none", "asha", "pbt"] = "none"
    """Which trials go on: all; by ASHA the better ones; by PBT all, the worse ones from a copy of a better one's checkpoint
    with changed values (of keys that may change in the middle of a run)."""
    grace_steps: int = Field(4, ge=1)
    """ASHA: steps that every trial may do. PBT: steps between two comparisons."""
    reduction_factor: float = Field(3.0, gt=1)
    """ASHA: one of so many goes on at each comparison."""
    concurrent_trials: int = Field(0, ge=0)
    """Trials at the same time; 0 takes as many as the cluster holds."""
    seed: int = 0
    """Of the search; the job's own `seed` is a key like any other."""


class TuneConfig(Config):
    """A job's configuration with `job`, `space` and `sweep` added."""

    model_config = ConfigDict(extra="allow")

    job: str
    """Command of the job that a trial runs, such as `train tgrpo`."""
    space: dict[str, Any] = {}
    """Dotted keys and where their values come from: a list, or uniform, loguniform, quniform, randint, lograndint, choice,
    grid_search, each with its list of numbers or values."""
    rows: dict[str, Row] = {}
    """In place of a space: named configurations to compare in one table, each with its seeds. The first is the one that the
    others are held against."""
    sweep: SweepConfig = SweepConfig()
    """Search and schedule."""
    name: str | None = None
    """Name of the sweep's directory; by default the job and the time."""
    output: Output = "runs"
    """Folder that it goes into, or a URI such as s3://bucket/runs: the sweep then works in ./runs and is copied there."""
    resume: bool = False
    """Go on with the sweep called `name`: squall tune runs/NAME/sweep.yaml --resume"""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @model_validator(mode="after")
    def _named(self) -> TuneConfig:
        if self.resume and self.name is None:
            raise ValueError("--resume needs the sweep: give its sweep.yaml (runs/NAME/sweep.yaml)")
        if self.rows and (self.space or self.sweep.scheduler != "none"):
            raise ValueError("rows are all run to the end, so they go with neither space nor sweep.scheduler")
        return self

    @property
    def values(self) -> dict[str, Any]:
        """What the configuration says to the job."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in ("job", *OWN_KEYS)}

    @property
    def searched(self) -> dict[str, Any]:
        """The space; for rows the key that names one, with its seed."""
        return {ROW: {"grid_search": list(entries(self.rows))}} if self.rows else self.space

    @property
    def search(self) -> str:
        """How the next configuration is found; rows are a grid."""
        return "grid" if self.rows else self.sweep.search

    def trial_values(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial says to the job, from the values sampled for it."""
        if self.rows:
            return row_values(self.rows, sampled[ROW], self.values, self.job)
        return with_values(self.values, sampled)


def run(config: TuneConfig) -> int:
    """Run a sweep. Returns 0 when at least one trial finished."""
    job = _job(config.job)
    space = parse_space(config.searched)
    demands = check_space(job, config, space)
    _check_search(config, space)
    folder, remote = _folder(config)
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables would come between ours
    try:
        try:
            at_once = _join(config, ResourcePlan(tuple(demands)))
        except BaseException:
            if not config.resume:  # nothing to keep, and the name stays free
                shutil.rmtree(folder, ignore_errors=True)
                if remote is not None:
                    remote.forget()
            raise
        if remote is not None:
            remote.start(folder)
        total = size_of_grid(space) if config.search == "grid" else config.sweep.trials
        print(f"sweep of squall {job.name}: {total} trials, {min(at_once, total)} at a time, {config.search} search"
              f"{'' if config.sweep.scheduler == 'none' else ' with ' + config.sweep.scheduler.upper()}, "
              f"{config.sweep.mode} {config.sweep.metric}\n{folder}", flush=True)
        with messages_of_ray(lambda line: append_line(folder / "logs" / "ray.log", f"{utc_now()} {line}")):
            return _search(config, job, space, folder, at_once)
    finally:
        stop_ray()
        if remote is not None and remote.started:
            remote.close()
            print(f"copied to {remote.uri}")


def _join(config: TuneConfig, plan: ResourcePlan) -> int:
    """Join or start the cluster; returns how many trials run at the same time.

    Raises:
        SquallError: no cluster answers, or it cannot hold what the sweep asks for.
    """
    cluster = start_ray(config.ray_address, dashboard=True)
    plan.check(cluster)
    fits, wanted = plan.fits(cluster), config.sweep.concurrent_trials
    if wanted > fits:
        need = plan.lines()[-1].partition(" ")[2]
        raise ResourceError(f"sweep.concurrent_trials {wanted} needs {wanted} x {need}, and the cluster holds {fits} such "
                            "trials: lower it, or join a larger cluster (ray_address)")
    return wanted or fits


def _job(name: str) -> Job:
    try:
        job = find_job(name)
    except KeyError:
        from squall.jobs.registry import JOBS

        known = [job.name for job in JOBS if job.demands]
        raise ConfigError(f"job: '{name}' is no job.{nearest(name, known)} These can be swept: {', '.join(known)}") from None
    if job.demands is None:
        raise ConfigError(f"job: 'squall {name}' cannot be swept; it logs no metrics")
    return job


def check_space(job: Job, config: TuneConfig, space: Mapping[str, Any]) -> list[Any]:
    """Check every key of a space at the ends of its range, or every row; returns what a trial reserves.

    Raises:
        ConfigError: an unknown key or a value that the job refuses.
    """
    model, _ = job.load()
    if config.rows:
        checked = [validate(model, config.trial_values({ROW: name}), where=f"rows: {name}") for name in entries(config.rows)]
        return max((job.demands_of(one) for one in checked), key=lambda demands: sum(d.count * d.cpus for d in demands))
    base = validate(model, config.values, where=f"squall {job.name}")
    for key, domain in space.items():
        if key in OWN_KEYS:
            raise ConfigError(f"space: '{key}' is the sweep's own and cannot be searched")
        for value in examples(domain):
            validate(model, config.trial_values({key: value}), where=f"space: {key}")
    return job.demands_of(base)


def _check_search(config: TuneConfig, space: Mapping[str, Any]) -> None:
    """Raise ConfigError for what the search or the scheduler cannot do."""
    sweep, steps = config.sweep, config.sweep.grace_steps
    values = config.trial_values({ROW: next(iter(entries(config.rows)))}) if config.rows else config.values
    if config.search == "grid":
        as_grid(space)
    elif grids := [key for key, domain in space.items() if isinstance(domain, dict)]:
        raise ConfigError(f"space: '{grids[0]}' is a grid_search, of which sweep.search {sweep.search} cannot draw: take "
                          "choice, or search: grid")
    if sweep.metric.startswith("heldout/") and (values.get("evaluation") or {}).get("manifest") is None:
        raise ConfigError(f"sweep.metric {sweep.metric} needs held-out questions: set evaluation.manifest")
    if sweep.scheduler != "pbt":
        return
    if "start_from" not in find_job(config.job).load()[0].model_fields:
        raise ConfigError("sweep.scheduler pbt begins trials from checkpoints of others, which squall "
                          f"{config.job} cannot: take asha, or none")
    if sweep.search != "random":
        raise ConfigError(f"sweep.search {sweep.search} does not go with sweep.scheduler pbt, which finds values by "
                          "changing those of better trials: take search: random")
    if steps % (config.values.get("checkpoint_every_steps") or 10**9):
        raise ConfigError(f"sweep.scheduler pbt copies checkpoints every sweep.grace_steps {steps}: set the job's "
                          "checkpoint_every_steps to that")


def with_values(values: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """A job's values with dotted keys set."""
    merged = copy.deepcopy(dict(values))
    for key, value in sampled.items():
        set_key(merged, key, _plain(value), f"space: '{key}'")
    return merged


def _plain(value: Any) -> Any:
    """numpy scalars, which searchers return, as Python's."""
    return value.item() if hasattr(value, "item") else value


def _folder(config: TuneConfig) -> tuple[Path, RemoteCopy | None]:
    """Make the sweep's directory, or take up the one to resume; and its copy where `output` is a URI."""
    name = config.name or default_name(f"{config.job.split()[-1]}-sweep")
    remote = open_remote(config.output, name, config.resume, print)
    run = RunDirectory.create(local_folder(config.output), "sweep", name, resume=config.resume)
    stored = config.model_dump(mode="json") | {"name": run.name, "resume": False}
    write_text(run.path / "sweep.yaml", yaml.safe_dump(stored, sort_keys=False, allow_unicode=True))
    return run.path, remote


def _search(config: TuneConfig, job: Job, space: Mapping[str, Any], folder: Path, at_once: int) -> int:
    from ray import tune

    from squall.actors.trial import JobTrial, TrialSettings
    from squall.jobs.sweep_watch import SweepWatch

    example = {key: examples(domain)[0] for key, domain in space.items()}
    sweep = config.sweep
    steps = job.steps_of(validate(job.load()[0], config.trial_values(example), where=f"squall {job.name}"))
    runs = folder / "trials"
    runs.mkdir(exist_ok=True)
    run_one = functools.partial(run_trial, job.name, config, str(runs))
    settings = TrialSettings(run_one, sweep.metric, os.getcwd(), str(runs))
    trainable = tune.with_resources(tune.with_parameters(JobTrial, settings=settings), {SLOTS: slot(at_once)})
    watch = SweepWatch(sweep.metric, sweep.mode, list(space), steps, functools.partial(write_results, config, folder))
    if not config.resume:
        write_results(config, folder, [])
    print(f"page, from the first result on: {folder / 'sweep.html'}", flush=True)
    if config.resume:
        tuner = tune.Tuner.restore(str(folder / "tune"), trainable, resume_unfinished=True, restart_errored=True,
                                   param_space=as_grid(space) if config.search == "grid" else dict(space))
    else:
        tuner = tune.Tuner(
            trainable, param_space=as_grid(space) if config.search == "grid" else dict(space),
            tune_config=tune.TuneConfig(
                metric=sweep.metric, mode=sweep.mode, num_samples=1 if config.search == "grid" else sweep.trials,
                max_concurrent_trials=at_once if sweep.search == "optuna" else None,
                search_alg=_searcher(sweep, at_once), scheduler=_scheduler(sweep, space, steps),
                reuse_actors=False, trial_name_creator=functools.partial(trial_name, folder.name),
                trial_dirname_creator=functools.partial(trial_name, folder.name)),
            # Every checkpoint is kept, a few bytes each: Tune's own state is older than the last ones when its driver is
            # killed, and a trial whose checkpoint is gone fails
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[watch], verbose=0,
                                      checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consider boosting PBT performance")  # a job cannot change in the middle
        results = tuner.fit()
    rows = watch.finish(results)
    return show_rows(config.rows, rows, folder, job, config.values) if config.rows else _write_best(config, job, folder, rows)


def write_results(config: TuneConfig, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write results.json and sweep.html: what is known of every trial, the best first."""
    sweep, steps, values = config.sweep, config.values.get("steps"), config.searched
    found = {"metric": sweep.metric, "mode": sweep.mode, "trials": rows}
    write_text(folder / "results.json", to_json(found, indent=2) + "\n")
    logarithmic = [key for key, domain in values.items() if isinstance(domain, dict) and "log" in next(iter(domain))]
    facts = [("job", f"squall {config.job}"), ("search", config.search), ("scheduler", sweep.scheduler), ("steps", str(steps))]
    write_sweep_page(
        folder / "sweep.html", title=folder.name, metric=sweep.metric, mode=sweep.mode, logarithmic=logarithmic,
        trials=[trial_of(row, folder / "trials", sweep.metric) for row in rows], facts=facts,
        command=f"squall tune {from_here(folder / 'sweep.yaml')} name=ANOTHER")


def trial_of(row: Mapping[str, Any], runs: Path, metric: str) -> Trial:
    """A row of results.json as the page shows it, its curve from the trial's runs."""
    curve: dict[float, float] = {}
    for path in sorted(runs.glob(f"{row['name']}*/metrics.jsonl")):
        curve |= {entry["step"]: entry[metric] for entry in read_metrics(path) if entry.get(metric) is not None}
    report = f"{runs.name}/{row['run']}/report.html"
    return Trial(row["name"], row["values"], row["value"], row["state"], sorted(curve.items()), row["error"],
                 report if (runs.parent / report).is_file() else None)


def _write_best(config: TuneConfig, job: Job, folder: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write the best finished configuration as best.yaml, to be run as it is."""
    best = next((row for row in rows if row["state"] == "finished" and row["value"] is not None), None)
    if best is None:
        reason = next((f": {row['error']}" for row in rows if row["error"]), "")
        raise SquallError(f"no trial finished{reason}; what there is: {folder}/results.json")
    values = {"job": job.name, **config.trial_values(best["values"])}
    head = f"# {best['name']}: {config.sweep.metric} {best['value']:.4f}, the best of {len(rows)} trials\n"
    write_text(folder / "best.yaml", head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    here = from_here(folder)
    print(f"page: {here / 'sweep.html'}")
    print(f"best: {best['name']}; run it with: squall {job.name} {here / 'best.yaml'}\n"
          f"its own run: {here}/trials/{best['run']}")
    if best["run"] != best["name"]:
        print("PBT changed its values on the way; best.yaml has the last ones: to run it is another run than the one that won")
    return 0


def slot(at_once: int) -> float:
    """A trial's share of `SLOTS`; some is left for what Ray puts there itself, and Ray counts in ten thousandths."""
    return int(9900 / at_once) / 10000


def trial_name(sweep: str, trial: Any) -> str:
    """Name of a trial and of its run: the sweep's, and the trial's number."""
    return f"{sweep}-{trial.trial_id.rpartition('_')[2]}"


def _searcher(sweep: SweepConfig, at_once: int) -> Any:
    if sweep.search == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it says of every study that it made one
        return OptunaSearch(metric=sweep.metric, mode=sweep.mode, seed=sweep.seed)
    from ray.tune.search import BasicVariantGenerator

    # PBT compares all trials, so all have to be there, and takes turns with them
    return BasicVariantGenerator(max_concurrent=0 if sweep.scheduler == "pbt" else at_once, random_state=sweep.seed)


def _scheduler(sweep: SweepConfig, space: Mapping[str, Any], steps: int) -> Any:
    if sweep.scheduler == "asha":
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(time_attr="step", max_t=steps, grace_period=sweep.grace_steps,
                             reduction_factor=sweep.reduction_factor)
    if sweep.scheduler == "pbt":
        from squall.actors.trial import Population

        return Population(steps, time_attr="step", perturbation_interval=sweep.grace_steps, hyperparam_mutations=dict(space),
                          synch=True)
    return None


def run_trial(job: str, config: TuneConfig, runs: str, sampled: Mapping[str, Any], name: str,
              start_from: Path | None) -> int:
    """Run a trial's job; a run directory that is there already is gone on with."""
    model, run_job = find_job(job).load()
    path = Path(runs) / name
    own: dict[str, Any] = {"output": runs, "name": name, "resume": _resumable(path)}
    if start_from is not None:
        own["start_from"] = str(start_from)
    return run_job(validate(model, config.trial_values(sampled) | own, where=name)) or 0


def _resumable(path: Path) -> bool:
    """Whether there is something to go on from; a trial that was killed before its first checkpoint starts anew."""
    if (path / "config.yaml").exists() and next(path.glob("**/checkpoints/step-*"), None) is not None:
        return True
    shutil.rmtree(path, ignore_errors=True)
    return False
