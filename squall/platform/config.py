"""Configuration: frozen pydantic models, YAML values, ``key.sub=value`` overrides, and errors that name the key."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from squall.platform.errors import ConfigError, nearest

PACKAGED_CONFIGS = Path(__file__).resolve().parents[1] / "tune_configs"
SOURCE_CONFIGS = Path(__file__).resolve().parents[2] / "tune_configs"


class Config(BaseModel):
    """Base of every configuration model. Unknown keys are refused; values cannot change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class _Loader(yaml.SafeLoader):
    """YAML in which true and false alone are booleans, as in YAML 1.2: ``contrast: off`` is the word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))

ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(model: type[ConfigT], source: str | Path | None, overrides: Iterable[str] = (),
                job: str | None = None) -> ConfigT:
    """Read a YAML file (or ``@name`` for a packaged one, or None for defaults), apply overrides, validate.

    A file may say which job it is for (``job: train tgrpo``); `job` is the one that asks. It may name another file that its
    values are laid over (``base: "@demo"``).

    Raises:
        ConfigError: one line naming the file, the key, the value, what is allowed and the nearest right name.
    """
    values = read_yaml(source) if source is not None else {}
    for override in overrides:
        apply_override(values, override)
    values = with_base(values, str(source or "defaults"))
    named = values.get("job") if "job" in model.model_fields else values.pop("job", None)
    if job is not None and "job" not in model.model_fields and named not in (None, job):
        raise ConfigError(f"{source} is a configuration of 'squall {named}', not of 'squall {job}'")
    return validate(model, values, where=str(source or "defaults"))


def with_base(values: Mapping[str, Any], where: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Values laid over those of the file that they name as ``base``, which may have a base of its own.

    Raises:
        ConfigError: the base is another job's, or the bases go round in a circle.
    """
    own = dict(values)
    base = own.pop("base", None)
    if base is None:
        return own
    if base in seen:
        raise ConfigError(f"{where}: base goes round in a circle: {' -> '.join((*seen, base))}")
    below = with_base(read_yaml(base), str(base), (*seen, base))
    if own.get("job", below.get("job")) != below.get("job", own.get("job")):
        raise ConfigError(f"{where}: base {base} is a configuration of 'squall {below['job']}', not of 'squall {own['job']}'")
    return lay_over(below, own)


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; where both have a value the upper one counts."""
    joined = copy.deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(joined.get(key), dict) and isinstance(value, Mapping)
        joined[key] = lay_over(joined[key], value) if both else copy.deepcopy(value)
    return joined


def validate(model: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Validate plain values against a model, turning pydantic's report into one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(model, error)}") from None


def resolve_config_path(source: str | Path) -> Path:
    """Turn ``@tgrpo`` into the packaged file; leave paths alone. Raises ConfigError when there is no such file."""
    text = str(source)
    if not text.startswith("@"):
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"{text}: no such configuration file. Packaged ones: {', '.join(packaged_configs())}")
        return path
    folder = SOURCE_CONFIGS if SOURCE_CONFIGS.is_dir() else PACKAGED_CONFIGS
    path = folder / f"{text[1:]}.yaml"
    if not path.is_file():
        raise ConfigError(f"{text}: no packaged configuration of that name.{nearest(text, packaged_configs())}"
                          f" Available: {', '.join(packaged_configs())}")
    return path


def packaged_configs() -> list[str]:
    """Names of the configurations that ship with Squall, such as ``@tgrpo``."""
    folder = SOURCE_CONFIGS if SOURCE_CONFIGS.is_dir() else PACKAGED_CONFIGS
    return sorted(f"@{path.relative_to(folder).with_suffix('')}" for path in folder.rglob("*.yaml"))


def read_yaml(source: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError with line and column when it is not one."""
    path = str(source) if "://" in str(source) else resolve_config_path(source)
    try:
        values = yaml.load(_text_of(path), Loader=_Loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {problem}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top, got {type(values).__name__}")
    return values


def _text_of(path: str | Path) -> str:
    if isinstance(path, Path):
        return path.read_text(encoding="utf-8")
    import fsspec

    try:
        with fsspec.open(path, "r", encoding="utf-8") as file:
            return str(file.read())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set ``key.sub=value`` inside nested mappings; the value is read as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': expected key.sub=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        value = text
    set_key(values, key, value, f"override '{override}'")


def set_key(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key inside nested mappings. Raises ConfigError, which begins with `where`, if a parent holds a value."""
    *parents, last = key.split(".")
    target = values
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise ConfigError(f"{where}: '{parent}' holds a value, not a section")
    target[last] = value


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML, loadable again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or "(top level)"
    more = error.error_count() - 1
    suffix = f" ({more} more problem{'s' if more > 1 else ''})" if more else ""
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(model, location[:-1])
        return f"unknown key '{key}'.{nearest(location[-1], allowed)} Allowed here: {', '.join(allowed)}{suffix}"
    if first["type"] == "missing":
        return f"missing key '{key}'{suffix}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return f"'{key}'{shown}: {message}{suffix}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = (field.annotation, *get_args(field.annotation))
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if current is None:
            return []
    return list(current.model_fields)
