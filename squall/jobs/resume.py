"""Taking up a run where it stopped: which checkpoint, whether the configuration is the run's, and how to say so."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from squall.jobs.console import say
from squall.platform.checkpoints import read_state
from squall.platform.config import Config
from squall.platform.errors import FULL_DISK, ConfigError, SquallError
from squall.platform.runs import RunDirectory, checkpoint_step, from_here, read_json, read_lines, to_json

SETTINGS = "settings.json"
OPTIMISER = "learner.optimiser"
FREE = ("resume", "name", "output", "steps", "max_staleness", "ray_address", "dashboard", "engine", "workers", "tracking",
        "placement", "balance_after_steps", "trace_steps", "max_sampled_groups", "checkpoint_every_steps", "device",
        "data.decode_threads", "data.prefetch_steps", "learner.workers", "learner.least_workers", "learner.recoveries",
        "learner.cpus", "learner.threads", "learner.gpus", "learner.tokens_per_microbatch", "learner.shared_prefix",
        "learner.gradient_checkpointing", "learner.vision_cache_mib", "learner.start_timeout_s",
        "learner.step_timeout_s", f"{OPTIMISER}.zero_stage", f"{OPTIMISER}.offload_optimiser")
"""Keys that a resumed run may change: where, how fast and how long it runs, what is kept. Others would make it another run."""


class StopRequested(Exception):
    """Ctrl-C or SIGTERM arrived: leave the loop, write a checkpoint, end well."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on."""

    step: int = 0
    """Steps that are done."""
    checkpoint: Path | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the job put into the checkpoint."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as a damaged checkpoint that was passed over."""


def find_resume_point(run: RunDirectory) -> ResumePoint:
    """The latest checkpoint that is whole; the beginning where none was written yet.

    Raises:
        SquallError: there are checkpoints and none is whole.
    """
    notes = []
    for checkpoint in run.finished_checkpoints():
        try:
            state = read_state(checkpoint)
        except SquallError as error:
            notes.append(str(error))
            continue
        return ResumePoint(checkpoint_step(checkpoint), checkpoint, state,
                           tuple(f"{note}; going back to the one before" for note in notes))
    if notes:
        raise SquallError(f"{run.path}: no checkpoint is whole, so none can be gone on from ({notes[0]}). Nothing was touched: "
                          "start a new run under another name")
    recorded = len(read_lines(run.consumed))
    done = f"{recorded} steps were done and no checkpoint was written" if recorded else "no step was done yet"
    return ResumePoint(notes=(f"{done}: the run starts from its first step",))


def fork_point(checkpoint: Path) -> ResumePoint:
    """Where a run begins that starts from a checkpoint of another.

    Raises:
        SquallError: it is no whole checkpoint of a run.
    """
    return ResumePoint(checkpoint_step(checkpoint), checkpoint, read_state(checkpoint))


def find_sampling_point(run: RunDirectory) -> ResumePoint:
    """Where a run that only samples goes on: after the last step that it stored."""
    rows = read_lines(run.consumed)
    return ResumePoint(len(rows), state={"cursor": sum(len(row["groups"]) for row in rows)})


def check_same_run(config: Config, run: RunDirectory) -> tuple[str, ...]:
    """Compare a configuration with the one that a run began with; returns what the user should know of a change.

    Raises:
        ConfigError: a key differs that would make it another run.
    """
    stored = dict(_leaves(yaml.safe_load(run.config.read_text(encoding="utf-8"))))
    stored.pop("job", None)
    now = dict(_leaves(config.model_dump(mode="json")))
    differing = [key for key in (now | stored) if now.get(key) != stored.get(key) and not _is_free(key)]
    if differing:
        key = differing[0]
        more = f" ({len(differing) - 1} more: {', '.join(differing[1:])})" if len(differing) > 1 else ""
        raise ConfigError(f"{run.path} was begun with {key} = {stored.get(key)!r}, and now it is {now.get(key)!r}{more}. "
                          f"Resume it as it was (squall ... {run.config} --resume), or start a new run from its weights: "
                          "model.path=")
    schedule = now.get(f"{OPTIMISER}.schedule", "constant")
    if now.get("steps") == stored.get("steps") or schedule == "constant":
        return ()
    return (f"steps was {stored['steps']} and is {now['steps']}: the {schedule} learning rate follows the new length",)


def check_settings(run: RunDirectory, resume: bool, now: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]) -> bool:
    """Write settings.json, what the results of a run follow from; returns whether it was there, and the same.

    Args:
        now: by section; `words` say of each what another one would be.

    Raises:
        ConfigError: what is there came about in another way.
    """
    stored = read_json(run.path / SETTINGS) if resume else {}
    plain = json.loads(to_json(now))
    for section, values in stored.items():
        if key := next((key for key in (*values, *plain[section]) if values.get(key) != plain[section].get(key)), None):
            raise ConfigError(f"{run.path}: was begun with {words[section]} ({section}.{key} differs); figures of both would "
                              "not belong together. Resume it as it was, or give another name")
    run.write_json(SETTINGS, now)
    return bool(stored)


def resume_command(job: str, run: RunDirectory) -> str:
    """The command line that goes on with a run."""
    return f"squall {job} {shlex.quote(str(from_here(run.config)))} --resume"


@contextmanager
def resumable(job: str, run: RunDirectory, console: Console, done: Callable[[], str]) -> Iterator[None]:
    """Where what is inside is interrupted or finds the disk full, say what is `done`, a clause, and how to go on.

    Raises:
        SquallError: in place of an OSError that says there is no room.
    """
    try:
        yield
    except KeyboardInterrupt:
        run.event("interrupted", done=done())
        say(console, f"stopped: {done()}; go on with: {resume_command(job, run)}")
        raise
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise SquallError(f"no room on the disk for {error.filename or run.path} ({error.strerror}); {done()}. Make room, then "
                          f"go on with: {resume_command(job, run)}") from error


def explain_full_disk(error: OSError, run: RunDirectory) -> SquallError:
    """The error to show in place of an OSError that says there is no room."""
    last = run.latest_checkpoint()
    good = f"the last good checkpoint is {last.name}" if last else "there is no checkpoint yet"
    where = error.filename or run.path
    return SquallError(f"no room on the disk for {where} ({error.strerror}); {good}. Make room, then resume the run")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)
