"""Every attack by the kind under which a configuration asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from squall.algorithms.attacks.autoattack import COMPONENTS, AutoAttack
from squall.algorithms.attacks.base import Attack
from squall.algorithms.attacks.entries import parse_entry

ATTACKS: Mapping[str, type[Attack]] = MappingProxyType({**COMPONENTS, AutoAttack.kind: AutoAttack})
"""Kind to class; settings are the class's fields."""


def parse_attack(value: str | Mapping[str, Any]) -> tuple[str, Attack]:
    """The name and the attack of an entry such as ``pgd`` or ``{kind: pgd, name: pgd-1000, steps: 1000}``.

    Raises:
        ConfigError: an unknown kind, key or value, or a name that cannot be one.
    """
    return parse_entry(value, ATTACKS)
