"""The words after a command: which configuration file, which keys, and what stands by its place."""

from __future__ import annotations

import json
from collections.abc import Sequence

from squall.jobs.registry import Job
from squall.platform.config import Config, load_config
from squall.platform.errors import ConfigError, nearest


def load_job_config(job: Job, words: Sequence[str]) -> Config:
    """The configuration that the words after a job's command describe."""
    model, _ = job.load()
    source, overrides = split_arguments(name_arguments(words, job, model), model)
    return load_config(model, source or job.default_config, overrides, job=job.name)


def name_arguments(words: Sequence[str], job: Job, model: type[Config]) -> list[str]:
    """Write the words that a job takes by their place as ``key=value``; a word may hold spaces and equals signs.

    Raises:
        ConfigError: a required one is missing.
    """
    if job.rest is not None:
        return _with_rest(words, job, model)
    named, missing = list(words), list(job.arguments)
    for position, word in enumerate(words):
        key = word.partition("=")[0]
        if position and _takes_value(words[position - 1], model):
            continue
        if key in missing and "=" in word:
            missing.remove(key)
        elif missing and not word.startswith("--") and not ("=" in word and key.partition(".")[0] in model.model_fields):
            named[position] = f"{missing.pop(0)}={_quoted(word)}"
    required = [key for key in missing if model.model_fields[key].is_required()]
    if required:
        raise ConfigError(f"{required[0].upper()} is missing; usage: squall {job.name} {job.usage}, such as: {job.example}")
    return named


def _with_rest(words: Sequence[str], job: Job, model: type[Config]) -> list[str]:
    """Keys first; from the first word that is none, all words as they are go to the key `job.rest`."""
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("--") and word.partition("=")[0].partition(".")[0] not in model.model_fields:
            break
        place += 1 + (_takes_value(word, model) and "=" not in word)
    if place >= len(words):
        raise ConfigError(f"nothing to run; usage: squall {job.name} {job.usage}, such as: {job.example}")
    return [*words[:place], f"{job.rest}={json.dumps(list(words[place:]), ensure_ascii=False)}"]


def _takes_value(word: str, model: type[Config]) -> bool:
    field = model.model_fields.get(word.removeprefix("--").replace("-", "_"))
    return word.startswith("--") and field is not None and field.annotation is not bool


def _quoted(word: str) -> str:
    """A word as a YAML text, whatever it looks like."""
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
