"""Kinds of corruption: how one is declared, found by name or `module:function`, and checked against a spec."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from squall.algorithms.corruption.calibration import CALIBRATION, intensity_at
from squall.algorithms.corruption.timeline import FrameMap, Timeline
from squall.platform.errors import ConfigError, nearest
from squall.platform.plugins import import_function
from squall.platform.records import CorruptionSpec

Measure = Literal["pixels", "motion", "information"]
"""What a kind's harm is measured by: look (SSIM and features), motion (flow error), or share of information lost."""
MEASURES: Mapping[str, Measure] = {"camera": "motion", "temporal": "information"}
"""By family; every other one is measured by its pixels."""


class Renderer(Protocol):
    """Corrupts frames in place: writable, C-contiguous uint8 (n, H, W, 3) RGB, some or all frames of a clip.

    What it does to a frame follows from that frame's pixels, its number and time in `timeline`, and the seed, so that
    any frame can be rendered alone. Randomness comes from `timeline.rng()`, the same for every frame of the clip, and
    `timeline.per_frame(k)`, which differs from frame to frame.

    Returns:
        uint8 (n, H, W), how opaque the corruption lies over each pixel (255 hides it), or None where it is no layer.
    """

    def __call__(self, frames: np.ndarray, timeline: Timeline, **parameters: float) -> np.ndarray | None: ...


class Rearranger(Protocol):
    """Says which frame is shown when in a clip of `count` frames."""

    def __call__(self, count: int, rng: np.random.Generator, **parameters: float) -> FrameMap: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that a kind's look depends on."""

    at: Callable[[float], float]
    """Its value at an intensity in (0, 1]."""
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to corrupt a clip."""

    name: str
    family: str
    function: Renderer | Rearranger
    parameters: Mapping[str, Parameter]
    measure: Measure = "pixels"
    rearranges: bool = False
    """Its function is a `Rearranger`: frames are lost or change places, their pixels stay."""
    whole_clip: bool = False
    """A frame's pixels depend on other frames, as in a video codec, so that none can be rendered alone."""
    checkpoint: str | None = None
    """Learned kinds: hash of the weights. A spec made with others is refused."""
    summary: str = ""
    """First line of its docstring."""
    takes_severity: bool = field(default=False, repr=False)
    """A user's plain function with a parameter `severity` gets it as it stands in the spec."""

    def resolve(self, spec: CorruptionSpec) -> dict[str, float]:
        """Values of all parameters: what severity implies, then what the spec states. Raises ConfigError."""
        intensity = intensity_at(self.name, spec.severity, spec.calibration)
        values = {name: parameter.at(intensity) for name, parameter in self.parameters.items()}
        for name, value in spec.parameters.items():
            self._check(name, value)
            values[name] = float(value)
        return values | ({"severity": spec.severity} if self.takes_severity else {})

    def _check(self, name: str, value: object) -> None:
        if name not in self.parameters:
            raise ConfigError(f"corruption '{self.name}': unknown parameter '{name}'.{nearest(name, self.parameters)}"
                              f" Allowed: {', '.join(self.parameters) or 'none'}")
        parameter = self.parameters[name]
        if not (is_number(value) and parameter.minimum <= value <= parameter.maximum):
            raise ConfigError(f"corruption '{self.name}': {name} = {value!r}:"
                              f" expected a number from {parameter.minimum:g} to {parameter.maximum:g}")


_kinds: dict[str, Kind] = {}
KINDS: Mapping[str, Kind] = MappingProxyType(_kinds)
"""Every registered kind by name."""
_plugins: dict[str, Kind] = {}
LEARNED = "learned:"
"""Begins the name of a kind that is made of trained attackers; their folder follows."""


def corruption(family: str, *, measure: Measure | None = None, rearranges: bool = False, whole_clip: bool = False,
               checkpoint: str | None = None, **parameters: Parameter) -> Callable[[Any], Any]:
    """Declare the decorated function as a kind, named after the function. Raises ConfigError when the name is taken."""

    def register(function: Any) -> Any:
        name = function.__name__
        known = _kinds.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ConfigError(f"corruption '{name}' of {function.__module__}: the name is taken by"
                              f" {known.function.__module__}; rename the function")
        _kinds[name] = Kind(name, family, function, MappingProxyType(parameters),
                            measure or MEASURES.get(family, "pixels"), rearranges, whole_clip, checkpoint, _summary(function))
        return function

    return register


def find_kind(name: str) -> Kind:
    """Look a kind up by its name, as ``module:function``, or as ``learned:FOLDER`` of trained attackers.

    Raises:
        ConfigError: there is none, with the nearest name and the allowed ones.
    """
    if name.startswith(LEARNED):
        from squall.algorithms.corruption.learned import learned_kind

        return learned_kind(name)
    if ":" in name:
        return _plugins.get(name) or _import_kind(name)
    if name not in KINDS:
        parts = [kind for kind in KINDS if name and name in kind]
        hint = f" Did you mean {' or '.join(parts)}?" if parts else nearest(name, KINDS)
        raise ConfigError(f"unknown corruption kind '{name}'.{hint} Allowed: {', '.join(KINDS)}, module:function, or"
                          f" {LEARNED}FOLDER")
    return KINDS[name]


def full_name(name: str) -> str:
    """A kind's name as specs and records have it: with an absolute path to trained attackers, so that every process finds them.

    Raises:
        ConfigError: the path cannot stand in a spec's one line.
    """
    if not name.startswith(LEARNED):
        return name
    path = name.removeprefix(LEARNED)
    full = os.path.abspath(os.path.expanduser(path))
    if re.search(r"[\s+]", full):
        raise ConfigError(f"{full}: a path to trained attackers is one word of a corruption's line and may have no space and"
                          " no +; rename the folder, or give a link to it")
    return LEARNED + full


def check_spec(spec: CorruptionSpec, count: int | None = None) -> Kind:
    """Return the kind that a spec names, or raise ConfigError saying what in the spec cannot be rendered.

    Args:
        count: frames of the clip, against which the span is checked.
    """
    kind = find_kind(spec.kind)
    if spec.family != kind.family:
        families = sorted({known.family for known in KINDS.values()})
        raise ConfigError(f"corruption '{spec.kind}': its family is '{kind.family}', not '{spec.family}'."
                          f" Families: {', '.join(families)}")
    if not (is_number(spec.severity) and 0 <= spec.severity <= 1):
        raise ConfigError(f"corruption '{spec.kind}': severity = {spec.severity!r}: expected a number from 0 to 1")
    if not isinstance(spec.seed, int) or isinstance(spec.seed, bool) or not 0 <= spec.seed < 2**63:
        raise ConfigError(f"corruption '{spec.kind}': seed = {spec.seed!r}: expected an integer from 0 to 2^63 - 1")
    if spec.calibration not in (0, CALIBRATION):
        raise ConfigError(f"corruption '{spec.kind}': calibration = {spec.calibration!r}: this version of Squall has"
                          f" {CALIBRATION}, and 0 for none; render with the version that made the spec, or make it anew")
    if spec.checkpoint != kind.checkpoint:
        raise ConfigError(f"corruption '{spec.kind}': the spec was made with checkpoint {spec.checkpoint},"
                          f" this kind has {kind.checkpoint}; load the right weights or make the spec anew")
    _check_span(spec, count)
    kind.resolve(spec)
    return kind


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_span(spec: CorruptionSpec, count: int | None) -> None:
    if spec.span is None:
        return
    start, stop = spec.span
    if not 0 <= start <= stop:
        raise ConfigError(f"corruption '{spec.kind}': span = {spec.span!r}: expected 0 <= start <= stop, in frames")
    if count is not None and stop > count:
        raise ConfigError(f"corruption '{spec.kind}': span = {spec.span!r} reaches beyond the clip's {count} frames;"
                          f" end it at {count} or before")


def _import_kind(name: str) -> Kind:
    function = import_function("corruption", name)
    registered = next((kind for kind in _kinds.values() if kind.function is function), None)
    _plugins[name] = registered or _plain_kind(name, function)
    return _plugins[name]


def _plain_kind(name: str, function: Callable[..., Any]) -> Kind:
    """A kind from a function without the decorator: keywords with a number as default are its parameters."""
    signature = list(inspect.signature(function).parameters.values())
    keywords = [parameter for parameter in signature if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    bare = [parameter.name for parameter in keywords if not is_number(parameter.default) and parameter.name != "severity"]
    if len(signature) - len(keywords) != 2 or bare:
        raise ConfigError(f"corruption '{name}': expected a function (frames, timeline, *, severity, option=1.0, ...)"
                          f" whose options have numbers as defaults, got {function_name_of(function)}")
    parameters = {parameter.name: Parameter(lambda _, value=float(parameter.default): value, -math.inf, math.inf)
                  for parameter in keywords if parameter.name != "severity"}
    return Kind(name, "custom", function, MappingProxyType(parameters), summary=_summary(function),
                takes_severity=len(parameters) < len(keywords))


def function_name_of(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', function)}{inspect.signature(function)}"


def _summary(function: Callable[..., Any]) -> str:
    return ((function.__doc__ or "").strip().splitlines() or [""])[0]
