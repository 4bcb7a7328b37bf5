"""Specs: made in code, written as text, drawn from a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from squall.algorithms.corruption.calibration import CALIBRATION
from squall.algorithms.corruption.registry import KINDS, check_spec, find_kind, full_name, is_number
from squall.platform.errors import ConfigError, nearest
from squall.platform.records import CorruptionSpec

_WORDS = ("seed", "frames", "calibration", "checkpoint", "severity")
_SEEDS = 2**31
STANDARD_KINDS = (
    "dusk", "night", "overexposure", "shadow", "light_rain", "heavy_rain", "storm", "snow", "hail", "fog", "blocks_static",
    "blocks_dynamic", "lens_drops", "translation", "zoom", "rotation", "shake", "motion_blur", "random_drop", "segment_drop",
    "freeze", "noise", "compression",
)
"""What training and evaluation draw from unless told otherwise: what happens to cameras outside. Masks and the other temporal
kinds are for ablations and controls."""


def expand_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Kinds with ``standard`` and ``all`` written out, each once."""
    groups = {"standard": STANDARD_KINDS, "all": tuple(KINDS)}
    return tuple(dict.fromkeys(kind for word in kinds for kind in groups.get(word, (word,))))


def known_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """The same, each tried. Raises ValueError, for validators, where one is unknown or wrong."""
    expanded = expand_kinds(kinds)
    try:
        for text in expanded:
            parse_spec(text, severity=0.5, seed=0)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return expanded


def make_spec(kind: str, severity: float, seed: int, *, span: tuple[int, int] | None = None, calibration: int = CALIBRATION,
              then: Sequence[CorruptionSpec] = (), **parameters: float) -> CorruptionSpec:
    """Build a checked spec; `parameters` override what severity implies, `then` comes after it. Raises ConfigError."""
    known = find_kind(kind)
    spec = CorruptionSpec(known.family, full_name(kind), severity, seed, parameters, span, calibration, known.checkpoint,
                          tuple(then))
    for one in (spec, *spec.then):
        check_spec(one)
    return spec


def parse_spec(text: str, *, severity: float | None = None, seed: int | None = None) -> CorruptionSpec:
    """Read a spec from text, as it prints itself.

    ``fog 0.5``, ``heavy_rain severity=0.6 seed=7 wind=2 frames=4:12`` and, composed, ``night 0.4 + light_rain 0.7`` are such
    texts. `severity` and `seed` count where the text names none; further members of a composition get seeds of their own.

    Raises:
        ConfigError: one line with the text and what is wrong with it.
    """
    try:
        members = [_parse_member(part, severity, None if seed is None else seed + i)
                   for i, part in enumerate(text.split(" + "))]
    except ConfigError as error:
        raise ConfigError(f"corruption '{text}': {error}") from None
    return replace(members[0], then=tuple(members[1:]))


def _parse_member(text: str, severity: float | None, seed: int | None) -> CorruptionSpec:
    words = text.split()
    if not words:
        raise ConfigError("empty; expected a kind, a severity and key=value words, such as 'fog 0.5 seed=7'")
    kind, values, span = words[0], {}, None
    rest = [f"severity={word}" if "=" not in word and i == 0 else word for i, word in enumerate(words[1:])]
    known = find_kind(kind)
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is no key=value. Known keys: {', '.join((*_WORDS, *known.parameters))}")
        if key not in _WORDS and key not in known.parameters:
            raise ConfigError(f"unknown key '{key}'.{nearest(key, (*_WORDS, *known.parameters))}"
                              f" Allowed: {', '.join((*_WORDS, *known.parameters))}")
        if key == "frames":
            span = _parse_span(value)
        else:
            values[key] = value if key == "checkpoint" else _number(key, value)
    severity, seed = values.pop("severity", severity), values.pop("seed", seed)
    if severity is None:
        raise ConfigError(f"'{kind}' needs a severity, such as '{kind} 0.5'")
    if seed is None:
        raise ConfigError(f"'{kind}' needs a seed, such as '{kind} {severity:g} seed=7'")
    checkpoint = values.pop("checkpoint", known.checkpoint)
    spec = CorruptionSpec(known.family, full_name(kind), float(severity), _whole("seed", seed), {}, span,
                          _whole("calibration", values.pop("calibration", CALIBRATION)), checkpoint)
    spec = replace(spec, parameters=values)
    check_spec(spec)
    return spec


def _parse_span(value: str) -> tuple[int, int]:
    start, colon, stop = value.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise ConfigError(f"frames={value}: expected START:STOP, such as frames=4:12")
    return int(start), int(stop)


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{key}={value}: expected a number") from None


def _whole(key: str, value: float) -> int:
    if not (is_number(value) and value == int(value)):
        raise ConfigError(f"{key}={value}: expected a whole number")
    return int(value)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Corruptions and their probabilities, from which a clip's is drawn; what is left of 1 is no corruption."""

    entries: tuple[tuple[str, float], ...]
    """Texts as `parse_spec` reads them, without a seed, such as ``fog`` or ``night 0.3 + snow``; each with a probability."""
    severity: tuple[float, float] = (0.4, 0.9)
    """Range of the severities that the texts do not name, drawn uniformly."""

    @classmethod
    def of(cls, kinds: Sequence[str] | Mapping[str, float], severity: tuple[float, float]) -> Mixture:
        """All of `kinds` alike, or with the given probabilities.

        Raises:
            ConfigError: no kinds, an unknown one, probabilities that are negative or sum to more than 1, or a range that is
                not 0 <= low <= high <= 1.
        """
        if not kinds:
            raise ConfigError(f"no corruption kinds to draw from. Allowed: {', '.join(KINDS)}")
        shares = dict(kinds) if isinstance(kinds, Mapping) else {kind: 1 / len(kinds) for kind in kinds}
        for text, share in shares.items():
            parse_spec(text, severity=0.5, seed=0)
            if not (is_number(share) and 0 <= share <= 1):
                raise ConfigError(f"corruption '{text}': probability {share!r}: expected a number from 0 to 1")
        if sum(shares.values()) > 1 + 1e-9:
            raise ConfigError(f"corruption probabilities sum to {sum(shares.values()):g}: at most 1 is allowed; what is left of"
                              " 1 is no corruption")
        low, high = severity
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"corruption severity = {severity!r}: expected 0 <= low <= high <= 1")
        return cls(tuple(shares.items()), (float(low), float(high)))

    def draw(self, seed: int) -> CorruptionSpec | None:
        """The corruption that belongs to a seed, or None; one for the whole clip."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        chance, level, own = float(rng.random()), float(rng.uniform(*self.severity)), int(rng.integers(_SEEDS))
        bounds = np.cumsum([share for _, share in self.entries])
        bounds[-1] = 1 if bounds[-1] > 1 - 1e-9 else bounds[-1]
        chosen = int(np.searchsorted(bounds, chance, side="right"))
        if chosen == len(self.entries):
            return None
        return parse_spec(self.entries[chosen][0], severity=level, seed=own)


def sample_spec(seed: int, kinds: Sequence[str] | Mapping[str, float], severity: tuple[float, float]) -> CorruptionSpec | None:
    """Draw from a mixture of kinds: all follows from `seed`. Errors as in `Mixture.of`."""
    return Mixture.of(kinds, severity).draw(seed)
