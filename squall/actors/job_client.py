"""Ray's job API: reaching a cluster, handing it a job and its secrets, and what the job finds there."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets as random_names
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobStatus, JobSubmissionClient

import squall
from squall.actors.cluster import check_version, start_ray
from squall.platform.errors import ConfigError, SquallError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
REACH_TIMEOUT_S = 10.0
VERSION_VARIABLE = "SQUALL_SUBMITTED_VERSION"
SECRETS_VARIABLE = "SQUALL_SECRETS"
FOLDER_VARIABLE = "SQUALL_WORKING_FOLDER"
STOP_WAIT_S = 300
"""How long Ray waits for a job that it asked to stop: Squall's jobs write a checkpoint then. Ray's own value is 3."""


def dashboard_address(address: str | None) -> str:
    """The address of a cluster's dashboard, which serves the job API: the one given, the environment's, else this machine's.

    Raises:
        ConfigError: it is not ``http://HOST:PORT``.
    """
    named = [(name, os.environ[name]) for name in ADDRESS_VARIABLES if os.environ.get(name, "").startswith("http")]
    source, value = ("address", address) if address else named[0] if named else ("address", DEFAULT_ADDRESS)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{source} = '{value}': jobs go to the cluster's dashboard, http://HOST:8265")
    return value.rstrip("/")


def is_this_machine(address: str) -> bool:
    """Whether a dashboard's address is a loopback one."""
    return urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job API.

    Raises:
        SquallError: nothing answers there within seconds, a token is missing or wrong, or the cluster runs another Ray.
    """
    try:
        answer = requests.get(f"{address}/api/version", headers=_token_header(), timeout=REACH_TIMEOUT_S)
    except requests.RequestException as error:
        raise SquallError(f"no Ray dashboard answers at {address} ({_short(error)}); start the cluster with ray[default] "
                          "installed (ray start --head), or give its address: address=http://HOST:8265") from error
    if answer.status_code in (401, 403):
        raise SquallError(f"{address} asks for a token ({answer.text.strip()}): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
                          "RAY_AUTH_TOKEN_PATH to those of the cluster")
    check_version(address, _ray_version(address, answer))
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client takes the environment's before its argument
    return JobSubmissionClient(address, headers=_token_header())


def _ray_version(address: str, answer: requests.Response) -> str:
    try:
        return str(answer.json()["ray_version"])
    except (ValueError, KeyError) as error:
        raise SquallError(f"what answers at {address} is not a Ray dashboard (HTTP {answer.status_code})") from error


def _token_header() -> dict[str, str]:
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))


def _short(error: BaseException) -> str:
    """The innermost reason of an error of requests, which wraps several."""
    found = re.findall(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return found[-1] if found else type(error).__name__


@contextmanager
def packed(environment: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The runtime environment with its folder, if it names one, as an archive, for as long as the context is open.

    Given a folder, Ray's client reads it twice, for the package's name and for the package: where a file changes in
    between, the job looks for a package that is not there.
    """
    if not os.path.isdir(environment.get("working_dir", "")):
        yield dict(environment)
        return
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    with TemporaryDirectory() as folder:
        archive = Path(folder) / "working_dir.zip"
        create_package(environment["working_dir"], archive, os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
                       excludes=[*get_runtime_env_default_excludes(), *environment.get("excludes", ())])
        yield {name: value for name, value in environment.items() if name != "excludes"} | {"working_dir": str(archive)}


def read_secrets(names: Sequence[str]) -> dict[str, str]:
    """Values of environment variables. Raises ConfigError naming those that are not set."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ConfigError(f"secrets: {', '.join(missing)} not set in this environment; export "
                          f"{'it' if len(missing) == 1 else 'them'} first, or leave the name out")
    return {name: os.environ[name] for name in names}


def hand_over_secrets(client: JobSubmissionClient, values: Mapping[str, str]) -> str:
    """Leave secrets where the job, and nothing that lists or logs jobs, finds them; returns under which name.

    A job's environment variables are shown by the dashboard and written into Ray's logs. This is a package of the cluster's
    key-value store, which the job removes as it takes it.
    """
    name = f"gcs://_ray_pkg_{random_names.token_hex(16)}.zip"
    answer = client._do_request("PUT", "/api/packages/" + name.replace("://", "/"), data=json.dumps(dict(values)).encode())
    if answer.status_code != 200:
        raise SquallError(f"the cluster did not take the secrets: HTTP {answer.status_code}")
    return name


def take_secrets() -> None:
    """In a submitted job: put the secrets that were handed over into this process's environment, and remove them there."""
    name = os.environ.pop(SECRETS_VARIABLE, None)
    if name is None:
        return
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get

    start_ray()
    stored = _internal_kv_get(name)
    _internal_kv_del(name)
    if stored is None:
        raise SquallError("the secrets of this job are gone: they are given once. Submit it again")
    os.environ.update(json.loads(stored))


def enter_submission() -> None:
    """In a submitted job: go to its folder, take its secrets and compare versions; elsewhere nothing.

    Raises:
        SquallError: the code that runs is not of the version that submitted it, or the cluster's environment is not.
    """
    if (submitted := os.environ.pop(VERSION_VARIABLE, None)) is None:
        return
    if folder := os.environ.pop(FOLDER_VARIABLE, None):
        os.chdir(folder)
    installed = metadata.version("squall")
    if submitted != squall.__version__:
        raise SquallError(f"submitted by Squall {submitted}, and the cluster runs {squall.__version__}: install {submitted} "
                          "there, or submit from its checkout so that the code travels along")
    if installed != squall.__version__:
        raise SquallError(f"the uploaded code is Squall {squall.__version__} and the cluster's environment was made for "
                          f"{installed}: make it anew (make env), or submit from a checkout of {installed}")
    take_secrets()


def follow(client: JobSubmissionClient, job: str) -> None:
    """Print a job's output as it comes, until it ends; where the stream breaks off before, wait for the end without it."""
    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells with which code a stream closed
    try:
        asyncio.run(tail())
    except RuntimeError as error:
        if client.get_job_status(job).is_terminal():
            return
        print(f"(its output cannot be followed any more: {_last_line(error)}; squall jobs logs {job})", flush=True)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)


def _last_line(error: BaseException) -> str:
    """The last line of an error's text, where Ray's client puts the reason."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[:300]


@contextmanager
def clear_errors(job: str) -> Iterator[None]:
    """Turn what Ray's client raises into one line that names the job."""
    try:
        yield
    except (RuntimeError, requests.RequestException, OSError) as error:
        raise SquallError(f"job '{job}': {_last_line(error)}") from error


def describe(details: Any) -> dict[str, Any]:
    """What is shown of a job: id, state, what it runs, start and end in seconds since the epoch, exit status, message."""
    return {
        "id": details.submission_id or details.job_id, "status": details.status.value, "command": details.entrypoint,
        "started": (details.start_time or 0) / 1000, "ended": (details.end_time or 0) / 1000,
        "exit": details.driver_exit_code, "message": (details.message or "").strip(),
    }


def given_up(details: Any) -> str | None:
    """Why Ray failed a job whose command has no exit status, of which the job's output need not say anything; else None."""
    if details.status != JobStatus.FAILED or details.driver_exit_code is not None:
        return None
    lines = [line.strip() for line in (details.message or "").splitlines() if line.strip()] or ["Ray does not say why"]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))


def exit_status(details: Any) -> int:
    """The exit status that `squall submit` ends with: the job's own, 130 when it was stopped."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    return 130 if details.status == JobStatus.STOPPED else details.driver_exit_code or 1
