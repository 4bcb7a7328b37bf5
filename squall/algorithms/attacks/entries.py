"""How a configuration names an attack: by its kind, or as a mapping of the kind, a name of its own and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = ("clean", "worst", "transfer")
"""What tables and cards call something else."""
Kind = TypeVar("Kind", bound=Config)


def parse_entry(value: str | Mapping[str, Any], kinds: Mapping[str, type[Kind]], what: str = "attack",
                example: str = "{kind: pgd, name: pgd-1000, steps: 1000}") -> tuple[str, Kind]:
    """The name and the attack of ``pgd`` or ``{kind: pgd, name: pgd-1000, steps: 1000}``; the name defaults to the kind.

    Args:
        what: what the kinds are called in messages, which show `example`.

    Raises:
        ConfigError: an unknown kind, key or value, or a name that cannot be one.
    """
    settings = {"kind": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        found = f"unknown {what} '{kind}'.{nearest(kind, kinds)}" if isinstance(kind, str) else f"{what} {value!r} has no kind."
        raise ConfigError(f"{found} Allowed: {', '.join(kinds)}, or such as {example}")
    name = settings.pop("name", kind)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(f"{what} '{kind}': name = {name!r}: expected letters, digits, '.', '_' and '-', and none of"
                          f" {', '.join(RESERVED)}")
    return name, validate(kinds[kind], settings, f"{what} '{name}'")
