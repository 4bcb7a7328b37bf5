"""`squall ...`: parse, call a job, print. What the commands are is in squall.jobs.registry."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import squall
from squall.jobs.registry import JOBS, Job, suggest
from squall.platform.errors import ConfigError, SquallError

HELP_OPTIONS = ("--help", "-h")
SUBMITTED = "SQUALL_SUBMITTED_VERSION"
"""Set in a job that `squall submit` sent here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: the job's; 2 for an error that the user can mend, 75 when a node went, 130 when interrupted."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # module:function is found here, as it is by Ray's workers; after all that is installed
    try:
        build_app(JOBS)(args=arguments, prog_name="squall")
    except SquallError as error:
        fail(error)


def fail(error: SquallError) -> None:
    """Print the error as one line and exit with its status."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(error.status)


def build_app(jobs: Sequence[Job]) -> typer.Typer:
    """A command for each job; a job of two words goes into a group named by the first."""
    app = _group(jobs, jobs)
    app.callback(invoke_without_command=True)(_root)
    groups: dict[str, typer.Typer] = {}
    for job in jobs:
        *parents, word = job.command
        parent = app
        for name in parents:
            if name not in groups:
                groups[name] = _group(jobs, [other for other in jobs if other.command[0] == name], no_args_is_help=True)
                app.add_typer(groups[name], name=name)
            parent = groups[name]
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        parent.command(word, help=job.summary, add_help_option=False, context_settings=settings)(_runner(job))
    return app


def overview(jobs: Sequence[Job]) -> str:
    """The text of `squall --help`."""
    lines = [f"Squall {squall.__version__}: reinforcement learning for video models that have to work outside, on Ray.",
             "", "Usage: squall COMMAND [CONFIG or arguments] [key=value ...]", ""]
    width = max(len(job.name) for job in jobs)
    for title, group in groupby(jobs, lambda job: job.section or (job.command[0] if len(job.command) > 1 else "start here")):
        lines.append(f"{title.capitalize()}:")
        for job in group:
            lines += [f"  {job.name:<{width}}  {job.summary}", f"  {'':<{width}}    {job.example}"]
    lines += ["", "CONFIG is a YAML file or a packaged one such as @tgrpo; key=value overrides what it says.",
              "`squall COMMAND --help` lists a command's keys; `squall --version` prints the version."]
    return "\n".join(lines) + "\n"


def job_help(job: Job) -> str:
    """The text of `squall COMMAND --help`: usage and every configuration key."""
    from squall.platform.config import packaged_configs
    from squall.platform.config_help import describe_keys

    model, _ = job.load()
    default = job.default_config or "the defaults below"
    words = job.usage
    source = [f"CONFIG: a YAML file or a packaged one ({', '.join(packaged_configs())}); without it: {default}."]
    return "\n".join([
        f"Usage: squall {job.name} {words} [key=value ...]", "", f"{job.summary}.", "", f"  {job.example}", "",
        *([] if job.arguments or job.rest else source), "A key may be written --key VALUE, one that is true or false --key.",
        "", "Keys:",
        describe_keys(model)])


def _root(context: typer.Context, version: Annotated[bool, typer.Option("--version")] = False) -> None:
    if version:
        print(f"squall {squall.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), end="")


def _group(jobs: Sequence[Job], shown: Sequence[Job], **settings: Any) -> typer.Typer:
    class Group(TyperGroup):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            formatter.write(overview(shown))

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if not args[0].startswith("-") and args[0] not in self.commands:
                words = [*ctx.command_path.split()[1:], args[0]]
                raise ConfigError(f"'{' '.join(words)}' is not a command.{suggest(words, jobs)} "
                                  f"Commands: {', '.join(job.name for job in jobs)}")
            return super().resolve_command(ctx, args)

    return typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False,
                       context_settings={"help_option_names": list(HELP_OPTIONS)}, **settings)


def _runner(job: Job) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        if any(option in context.args for option in HELP_OPTIONS):
            print(job_help(job))
            return
        try:
            raise typer.Exit(run_job(job, context.args))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None

    return command


def run_job(job: Job, words: Sequence[str]) -> int:
    """Load the job's configuration from the words after its command and run it. Returns the exit status."""
    if SUBMITTED in os.environ:
        from squall.actors.job_client import enter_submission

        enter_submission()
    from squall.jobs.arguments import load_job_config

    _, run = job.load()
    return run(load_job_config(job, words)) or 0
