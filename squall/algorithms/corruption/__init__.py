"""Corruptions of video clips: seeded, coherent over time, the same pixels on every call and in every process.

    spec = make_spec("heavy_rain", severity=0.5, seed=7)        # or parse_spec("heavy_rain 0.5 seed=7")
    corrupted = render(frames, spec, fps=24)

Numpy and OpenCV alone. A new kind is one function in its family's file, decorated with `corruption`; users add theirs with the
same decorator, or name any function as ``module:function``. Lengths are metres or fractions of the shorter side of the frame,
times are in seconds, so that a kind looks alike at every resolution and frame rate. docs/corruption.md shows them all.
"""

from squall.algorithms.corruption import (  # noqa: F401 (registers kinds)
    camera,
    mask,
    occlusion,
    photometric,
    sensor,
    temporal,
    weather,
)
from squall.algorithms.corruption.calibration import CALIBRATION
from squall.algorithms.corruption.mask import token_mask
from squall.algorithms.corruption.registry import KINDS, Kind, Parameter, check_spec, corruption, find_kind
from squall.algorithms.corruption.render import Rendered, frame_map, render, render_clip, render_with_masks
from squall.algorithms.corruption.spec import (
    STANDARD_KINDS,
    Mixture,
    expand_kinds,
    known_kinds,
    make_spec,
    parse_spec,
    sample_spec,
)
from squall.algorithms.corruption.temporal import shuffle_frames
from squall.algorithms.corruption.timeline import FrameMap, Timeline
from squall.platform.records import CorruptionSpec

__all__ = [
    "CALIBRATION", "KINDS", "STANDARD_KINDS", "CorruptionSpec", "FrameMap", "Kind", "Mixture", "Parameter", "Rendered",
    "Timeline", "check_spec", "corruption", "expand_kinds", "find_kind", "frame_map", "known_kinds", "make_spec", "parse_spec",
    "render", "render_clip", "render_with_masks", "sample_spec", "shuffle_frames", "token_mask",
]
