"""Kinds of corruption: how one is declared, found by name, and checked against a spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from squall.platform.errors import ConfigError, nearest
from squall.platform.records import CorruptionSpec


class Renderer(Protocol):
    """Corrupts frames in place: writable, C-contiguous uint8 (T, H, W, 3) RGB. All randomness comes from `rng`.

    Particles, paths and fields are functions of (seed, frame number), counted from the first affected frame.
    """

    def __call__(self, frames: np.ndarray, rng: np.random.Generator, **parameters: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that a kind's look depends on."""

    at: Callable[[float], float]
    """Its value at a severity in (0, 1]."""
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to corrupt a clip."""

    name: str
    family: str
    function: Renderer
    parameters: Mapping[str, Parameter]

    def resolve(self, severity: float, overrides: Mapping[str, float]) -> dict[str, float]:
        """Values of all parameters: what severity implies, then what the spec states. Raises ConfigError."""
        values = {name: parameter.at(severity) for name, parameter in self.parameters.items()}
        for name, value in overrides.items():
            self._check(name, value)
            values[name] = float(value)
        return values

    def _check(self, name: str, value: float) -> None:
        if name not in self.parameters:
            raise ConfigError(f"corruption '{self.name}': unknown parameter '{name}'.{nearest(name, self.parameters)}"
                              f" Allowed: {', '.join(self.parameters)}")
        parameter = self.parameters[name]
        if not (_is_number(value) and parameter.minimum <= value <= parameter.maximum):
            raise ConfigError(f"corruption '{self.name}': {name} = {value!r}:"
                              f" expected a number from {parameter.minimum:g} to {parameter.maximum:g}")


_kinds: dict[str, Kind] = {}
KINDS: Mapping[str, Kind] = MappingProxyType(_kinds)
"""Every kind by name."""


def corruption(family: str, **parameters: Parameter) -> Callable[[Renderer], Renderer]:
    """Declare the decorated function as a kind, named after the function."""

    def register(function: Renderer) -> Renderer:
        name = function.__name__  # type: ignore[attr-defined]
        _kinds[name] = Kind(name, family, function, MappingProxyType(parameters))
        return function

    return register


def find_kind(name: str) -> Kind:
    """Look a kind up. Raises ConfigError with the nearest name and the allowed ones."""
    if name not in KINDS:
        raise ConfigError(f"unknown corruption kind '{name}'.{nearest(name, KINDS)} Allowed: {', '.join(KINDS)}")
    return KINDS[name]


def check_spec(spec: CorruptionSpec) -> Kind:
    """Return the kind that a spec names, or raise ConfigError saying what in the spec cannot be rendered."""
    kind = find_kind(spec.kind)
    if spec.family != kind.family:
        families = sorted({known.family for known in KINDS.values()})
        raise ConfigError(f"corruption '{spec.kind}': its family is '{kind.family}', not '{spec.family}'."
                          f" Families: {', '.join(families)}")
    if not (_is_number(spec.severity) and 0 <= spec.severity <= 1):
        raise ConfigError(f"corruption '{spec.kind}': severity = {spec.severity!r}: expected a number from 0 to 1")
    if not isinstance(spec.seed, int) or spec.seed < 0:
        raise ConfigError(f"corruption '{spec.kind}': seed = {spec.seed!r}: expected an integer of 0 or more")
    if spec.span is not None and not 0 <= spec.span[0] <= spec.span[1]:
        raise ConfigError(f"corruption '{spec.kind}': span = {spec.span!r}: expected 0 <= start <= stop, in frames")
    kind.resolve(spec.severity, spec.parameters)
    return kind


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
