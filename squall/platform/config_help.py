"""What a configuration model accepts, as text: every key with its type, default, bounds and docstring."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "a multiple of"))


def describe_keys(model: type[BaseModel], width: int = 100) -> str:
    """Lines ``key: type = default (bounds)``, each with its docstring below; sections are written ``section.key``."""
    lines: list[str] = []
    for key, field in _flatten(model, ""):
        lines.append(f"  {key}: {_type_name(field.annotation)}{_default(field)}{_bounds(field)}")
        text = " ".join((field.description or "").split())
        lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _flatten(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None or field.annotation is not section:
            yield prefix + name, field
        if section is not None:
            yield from _flatten(section, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(part) for part in arguments)
    if annotation is type(None):
        return "null"
    if annotation is Ellipsis:
        return "..."
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(_type_name(part) for part in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    return getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return " (required)"
    return f" = {_plain(field.get_default(call_default_factory=True))}"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value) if isinstance(value, str | int | float | PurePath) else repr(value)


def _bounds(field: FieldInfo) -> str:
    found = [f"{sign} {value}" for item in field.metadata for name, sign in BOUNDS
             if (value := getattr(item, name, None)) is not None]
    return f"  ({', '.join(found)})" if found else ""
