"""Corruptions of video clips: seeded, temporally coherent, the same pixels on every call and in every process.

    spec = make_spec("rain", severity=0.5, seed=7)
    corrupted = render(frames, spec)

A new kind is one function in its family's file, decorated with `corruption`. Units: lengths are fractions of the
shorter side of the frame, so that a kind looks alike at every resolution; time is in frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from squall.algorithms.corruption import camera, occlusion, photometric, temporal, weather  # noqa: F401 (registers kinds)
from squall.algorithms.corruption.registry import KINDS, Kind, Parameter, check_spec, corruption, find_kind
from squall.algorithms.corruption.temporal import shuffle_frames
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import CorruptionSpec

__all__ = ["KINDS", "Kind", "Parameter", "check_spec", "corruption", "find_kind", "make_spec", "render", "sample_spec",
           "shuffle_frames"]


def render(frames: np.ndarray, spec: CorruptionSpec) -> np.ndarray:
    """Corrupt a clip.

    Args:
        frames: uint8, (T, H, W, 3), RGB, of any strides; never written to.
        spec: what to do. Frames outside its span keep their pixels; a span that reaches past the clip is cut.

    Returns:
        A new array of the same shape and dtype, or `frames` itself when severity is 0 or the span is empty.

    Raises:
        ConfigError: the spec names an unknown kind, family or parameter, or a value outside its range.
        DataError: the frames have another shape or dtype.
    """
    kind = check_spec(spec)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        found = f"{frames.dtype} {frames.shape}"
        message = f"corruption '{spec.kind}': frames must be uint8 (T, H, W, 3), got {found}"
        raise DataError(message, reason="frame_format")
    start, stop = spec.span or (0, len(frames))
    if spec.severity == 0 or frames[start:stop].size == 0:
        return frames
    output = np.array(frames, order="C")
    parameters = kind.resolve(spec.severity, spec.parameters)
    kind.function(output[start:stop], _generator(spec.seed), **parameters)
    return output


def make_spec(
    kind: str, severity: float, seed: int, *, span: tuple[int, int] | None = None, **parameters: float
) -> CorruptionSpec:
    """Build a checked spec; `parameters` override what severity implies. Raises ConfigError."""
    spec = CorruptionSpec(find_kind(kind).family, kind, severity, seed, parameters, span)
    check_spec(spec)
    return spec


def sample_spec(rng_seed: int, kinds: Sequence[str], severity: tuple[float, float]) -> CorruptionSpec:
    """Draw a kind uniformly, a severity uniformly from the range, and a seed; all follow from `rng_seed`.

    Raises:
        ConfigError: no kinds, an unknown one, or a range that is not 0 <= low <= high <= 1.
    """
    if not kinds:
        raise ConfigError(f"no corruption kinds to draw from. Allowed: {', '.join(KINDS)}")
    low, high = severity
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"corruption severity = {severity!r}: expected 0 <= low <= high <= 1")
    for name in kinds:
        find_kind(name)
    rng = _generator(rng_seed)
    kind = kinds[int(rng.integers(len(kinds)))]
    return make_spec(kind, float(rng.uniform(low, high)), int(rng.integers(2**31)))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
