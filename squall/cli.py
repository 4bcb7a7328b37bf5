"""`squall ...`: parse, call a job, print. What the commands are is in squall.jobs.registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import squall
from squall.jobs.registry import JOBS, Job, suggest
from squall.platform.errors import ConfigError, SquallError, nearest

if TYPE_CHECKING:
    from squall.platform.config import Config

HELP_OPTIONS = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: the job's; 2 for an error that the user can mend, 130 when interrupted."""
    try:
        build_app(JOBS)(args=arguments, prog_name="squall")
    except SquallError as error:
        fail(error)


def fail(error: SquallError) -> None:
    """Print the error as one line and exit with status 2."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


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
    for title, group in groupby(jobs, lambda job: job.command[0] if len(job.command) > 1 else "start here"):
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
    words = " ".join(argument.upper() for argument in job.arguments) or "[CONFIG]"
    source = [f"CONFIG: a YAML file or a packaged one ({', '.join(packaged_configs())}); without it: {default}."]
    return "\n".join([
        f"Usage: squall {job.name} {words} [key=value ...]", "", f"{job.summary}.", "", f"  {job.example}", "",
        *([] if job.arguments else source), "A key may be written --key VALUE, one that is true or false --key.", "", "Keys:",
        describe_keys(model)])


def name_arguments(words: Sequence[str], job: Job, model: type[Config]) -> list[str]:
    """Write the words that a job takes by their place as ``key=value``; a word may hold spaces and equals signs.

    Raises:
        ConfigError: a required one is missing.
    """
    named, missing = list(words), list(job.arguments)
    for position, word in enumerate(words):
        key = word.partition("=")[0]
        if position and _takes_value(words[position - 1], model):
            continue
        if key in missing and "=" in word:
            missing.remove(key)
        elif missing and not word.startswith("--") and key.partition(".")[0] not in model.model_fields:
            named[position] = f"{missing.pop(0)}={_quoted(word)}"
    required = [key for key in missing if model.model_fields[key].is_required()]
    if required:
        usage = " ".join(argument.upper() for argument in job.arguments)
        raise ConfigError(f"{required[0].upper()} is missing; usage: squall {job.name} {usage}, such as: {job.example}")
    return named


def _takes_value(word: str, model: type[Config]) -> bool:
    field = model.model_fields.get(word.removeprefix("--").replace("-", "_"))
    return word.startswith("--") and field is not None and field.annotation is not bool


def _quoted(word: str) -> str:
    """A word as a YAML text, whatever it looks like."""
    import json

    return json.dumps(word, ensure_ascii=False)


def split_arguments(words: Sequence[str], model: type[Config]) -> tuple[str | None, list[str]]:
    """Tell the configuration file from the overrides; ``--flag-name`` is ``flag_name=true``, ``--key VALUE`` key=VALUE.

    Raises:
        ConfigError: an option that is no key of `model`, or a second configuration file.
    """
    source: str | None = None
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            overrides.append(_option(word, rest, model))
        elif "=" in word:
            overrides.append(word)
        elif source is None:
            source = word
        else:
            raise ConfigError(f"'{word}': there is a configuration already, '{source}'; overrides look like key=value")
    return source, overrides


def _option(word: str, rest: list[str], model: type[Config]) -> str:
    """The override that ``--key``, ``--key=value`` or ``--key value`` stands for; a value is taken from `rest`."""
    name, equals, value = word.lstrip("-").partition("=")
    key = name.replace("-", "_")
    if not word.startswith("--") or key not in model.model_fields:
        known = [f"--{field.replace('_', '-')}" for field in (*model.model_fields, "help")]
        switches = [f"--{name.replace('_', '-')}" for name, field in model.model_fields.items() if field.annotation is bool]
        raise ConfigError(f"unknown option '{word}'.{nearest(word, known)} Switches here: {', '.join([*switches, '--help'])}")
    if equals:
        return f"{key}={value}"
    if model.model_fields[key].annotation is bool:
        return f"{key}=true"
    if not rest:
        raise ConfigError(f"'{word}' needs a value: {word} VALUE, or {key}=VALUE")
    return f"{key}={rest.pop(0)}"


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
    from squall.platform.config import load_config

    model, run = job.load()
    source, overrides = split_arguments(name_arguments(words, job, model), model)
    return run(load_config(model, source or job.default_config, overrides)) or 0
