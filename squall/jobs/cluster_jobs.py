"""What runs on a Ray cluster: list jobs, show one's output, stop one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from squall.actors import job_client
from squall.platform.config import Config
from squall.platform.progress import clock

COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "STOPPED": "yellow", "RUNNING": "cyan", "PENDING": "dim"}


class ClusterJobsConfig(Config):
    """Which jobs, and what to do with one."""

    action: Literal["list", "logs", "stop"] = "list"
    """`list` all, follow the output (`logs`) of one, or `stop` one."""
    job: str | None = None
    """Which one: its id in the list."""
    address: str | None = None
    """The cluster's dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this machine's."""

    @model_validator(mode="after")
    def _names_a_job(self) -> ClusterJobsConfig:
        if self.action != "list" and self.job is None:
            raise ValueError(f"{self.action} needs the job: squall jobs {self.action} ID (squall jobs lists them)")
        return self


def run(config: ClusterJobsConfig) -> int:
    """List, follow or stop. Returns 0, for `logs` the job's exit status."""
    address = job_client.dashboard_address(config.address)
    client = job_client.connect(address)
    if config.action == "list":
        show([job_client.describe(details) for details in client.list_jobs()], address)
        return 0
    with job_client.clear_errors(config.job):
        if config.action == "stop":
            was_running = client.stop_job(config.job)
            print(f"job {config.job}: " + ("asked to stop" if was_running else "was not running"))
            return 0
        job_client.follow(client, config.job)
        return job_client.exit_status(client.get_job_info(config.job))


def show(jobs: list[Mapping[str, Any]], address: str) -> None:
    """Print a table, the latest job first."""
    console = Console()
    if not jobs:
        console.print(f"no jobs at {address} yet; submit one: squall submit train tgrpo @demo", highlight=False)
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("id", "state", "exit", "started", "ran", "command"):
        table.add_column(name, overflow="fold", justify="right" if name in ("exit", "ran") else "left",
                         no_wrap=name not in ("id", "command"))
    for job in sorted(jobs, key=lambda job: job["started"], reverse=True):
        ended = job["ended"] or time.time()
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["started"])) if job["started"] else ""
        table.add_row(Text(str(job["id"])), Text(job["status"].lower(), COLOURS.get(job["status"], "")),
                      "" if job["exit"] is None else str(job["exit"]), began,
                      clock(ended - job["started"]) if job["started"] else "", Text(job["command"]))
    console.print(table)
