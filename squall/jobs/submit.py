"""Run any job of Squall on a Ray cluster: hand it over, follow its output, end with its exit status."""

from __future__ import annotations

import getpass
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator
from ray.job_submission import JobSubmissionClient

import squall
from squall.actors import job_client
from squall.jobs.arguments import load_job_config
from squall.jobs.registry import JOBS, Job, suggest
from squall.platform.config import Config, read_yaml
from squall.platform.errors import ConfigError
from squall.platform.remote import is_uri
from squall.platform.runs import git_commit

EXCLUDES = (".git", ".venv*", "venv", "runs", "data", "__pycache__", "*.safetensors", "*.egg-info", ".pytest_cache")


class SubmitConfig(Config):
    """How a job goes to a cluster. Keys stand before the command: `squall submit --gpus 1 train tgrpo @tgrpo`."""

    command: tuple[str, ...] = Field(min_length=1)
    """The job: the words after `squall`, or a configuration file that says `job:`."""
    address: str | None = None
    """The cluster's dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this machine's."""
    working_dir: Path | None = None
    """Folder to upload and run in; by default this one; for a cluster on this machine none: the job runs right here."""
    excludes: tuple[str, ...] = EXCLUDES
    """Patterns, as in .gitignore, of what is not uploaded."""
    runtime_env: Path | None = None
    """YAML file with more of Ray's runtime environment: env_vars, pip, container, ..."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables, such as WANDB_API_KEY, whose values the job gets; they are shown and logged nowhere."""
    submission_id: str | None = None
    """Name of the job on the cluster, and of its run directory; by default the command and the time."""
    metadata: dict[str, str] = {}
    """More words to store with the job; the dashboard shows them."""
    cpus: float = Field(0.0, ge=0)
    """CPUs that the driver itself reserves, beside its actors."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that the driver itself reserves; its actors reserve their own."""
    follow: bool = True
    """Show the job's output until it ends and take over its exit status; Ctrl-C stops the job. False returns at once."""

    @field_validator("secrets", "excludes", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def run(config: SubmitConfig) -> int:
    """Submit a job. Returns its exit status, or 0 at once without `follow`."""
    job, words = find_command(config.command)
    address = job_client.dashboard_address(config.address)
    here = job_client.is_this_machine(address)
    name = config.submission_id or f"{'-'.join(job.command)}-{time.strftime('%Y%m%d-%H%M%S')}"
    words = complete(job, words, name, here)
    values = job_client.read_secrets(config.secrets)
    environment = runtime_environment(config, here)
    client = job_client.connect(address)
    if values:
        environment["env_vars"][job_client.SECRETS_VARIABLE] = job_client.hand_over_secrets(client, values)
    with job_client.clear_errors(name), job_client.packed(environment) as sent:
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", "squall", *words]), submission_id=name, runtime_env=sent,
            metadata=describe(config, job), entrypoint_num_cpus=config.cpus or None, entrypoint_num_gpus=config.gpus or None)
    print(f"job {name} at {address}: squall {shlex.join(words)}", flush=True)
    if not config.follow:
        print(f"follow it with: squall jobs logs {name}; stop it with: squall jobs stop {name}")
        return 0
    return follow_to_the_end(client, name)


def find_command(words: Sequence[str]) -> tuple[Job, list[str]]:
    """The job that words name, and the words that run it; a configuration file alone stands for the job that it names.

    Raises:
        ConfigError: there is no such job, or the file does not say which job it is for.
    """
    if words[0].startswith("@") or words[0].endswith((".yaml", ".yml")):
        named = str(read_yaml(words[0]).get("job", ""))
        if not named:
            raise ConfigError(f"{words[0]} does not say which job it is for: add a line such as 'job: train tgrpo', or write "
                              f"the command: squall submit train tgrpo {words[0]}")
        words = [*named.split(), *words]
    for job in JOBS:
        if tuple(words[:len(job.command)]) == job.command:
            if job.module == __name__:
                break
            return job, list(words)
    typed = " ".join(words[:2])
    raise ConfigError(f"'{typed}' is not a job that can be submitted.{suggest(words[:2])}")


def complete(job: Job, words: Sequence[str], name: str, here: bool) -> list[str]:
    """Check the job's configuration before anything is sent, and give the run its name and a place to stay.

    Raises:
        ConfigError: the configuration is wrong, or its output would go with the job's temporary folder.
    """
    config = load_job_config(job, words[len(job.command):])
    fields = type(config).model_fields
    added = [f"name={name}"] if "name" in fields and config.name is None else []
    output = getattr(config, "output", None)
    if output is not None and not here and not (is_uri(str(output)) or Path(output).is_absolute()):
        raise ConfigError(f"output = '{output}' would be in the uploaded copy of this folder, which goes when the job ends: "
                          "give a folder that every node sees (output=/shared/runs) or a URI (output=s3://bucket/runs)")
    return [*words, *added]


def runtime_environment(config: SubmitConfig, here: bool) -> dict[str, Any]:
    """Ray's runtime environment of the job."""
    environment: dict[str, Any] = {}
    if config.runtime_env is not None:
        if not config.runtime_env.is_file():
            raise ConfigError(f"runtime_env = {config.runtime_env}: no such file")
        environment = yaml.safe_load(config.runtime_env.read_text(encoding="utf-8")) or {}
    variables = {job_client.VERSION_VARIABLE: squall.__version__, "RAY_JOB_STOP_WAIT_TIME_S": str(job_client.STOP_WAIT_S)}
    folder = config.working_dir or (None if here else Path("."))
    if folder is None:
        variables[job_client.FOLDER_VARIABLE] = os.getcwd()
    elif not folder.is_dir():
        raise ConfigError(f"working_dir = {folder}: no such folder")
    else:
        environment |= {"working_dir": str(folder), "excludes": list(config.excludes)}
    return environment | {"env_vars": {**environment.get("env_vars", {}), **variables}}


def describe(config: SubmitConfig, job: Job) -> dict[str, str]:
    """What is stored with the job and shown by the dashboard."""
    return {"job": job.name, "squall": squall.__version__, "commit": str(git_commit()), "user": getpass.getuser(),
            **config.metadata}


def follow_to_the_end(client: JobSubmissionClient, name: str) -> int:
    """Show a job's output until it ends; Ctrl-C stops it and waits for its end, a second one leaves it stopping."""
    try:
        with job_client.clear_errors(name):
            job_client.follow(client, name)
    except KeyboardInterrupt:
        print(f"stopping job {name}, which writes a checkpoint where it can; once more to leave at once", flush=True)
        with job_client.clear_errors(name):
            client.stop_job(name)
            job_client.follow(client, name)
    details = client.get_job_info(name)
    status = job_client.exit_status(details)
    if why := job_client.given_up(details):
        print(f"job {name} was given up by Ray: {why}", flush=True)
    elif status and details.status.value != "STOPPED":
        print(f"job {name} failed with exit status {status}; its output again: squall jobs logs {name}", flush=True)
    else:
        print(f"job {name} {details.status.value.lower()}", flush=True)
    return status
