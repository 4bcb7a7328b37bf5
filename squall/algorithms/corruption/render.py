"""From a spec and frames to corrupted frames, and to where and how strongly each of them is affected."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Kind, check_spec, is_number
from squall.algorithms.corruption.timeline import BLANK, FrameMap, Timeline
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import Clip, CorruptionSpec, make_clip

DEFAULT_FPS = 24.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """Corrupted frames and what was done to them, for T' output frames."""

    frames: np.ndarray
    """uint8, (T', H, W, 3) or as grey as the input."""
    source: np.ndarray
    """int64 (T',): the input frame that each shows, or -1 for none."""
    times: np.ndarray
    """float64 (T',): when each is shown, in input frames."""
    where: np.ndarray
    """bool (T', H, W): B of ROVA's masks (arXiv 2603.10652, section 3.1), the pixels that are affected."""
    strength: np.ndarray
    """float32 (T', H, W) in [0, 1]: C of ROVA's masks. For layers (weather, blocks, shadow) their opacity; for kinds that
    change every pixel (light, noise, codec) the largest change of a channel; 1 where a frame was lost, moved or shaken."""


def render(frames: np.ndarray, spec: CorruptionSpec, *, fps: float = DEFAULT_FPS, first: int = 0,
           count: int | None = None) -> np.ndarray:
    """Corrupt a clip, or some of its frames.

    Args:
        frames: uint8, (T, H, W, 3) RGB, or grey as (T, H, W, 1) or (T, H, W), of any strides; never written to.
        spec: what to do. Frames outside its span keep their pixels.
        fps: frames per second of the clip; what moves does so by the second.
        first: number of the first frame given, where they are a part of a longer clip. The pixels are those that it has when
            the whole clip is rendered.
        count: frames of that longer clip, so that a span beyond it is found; by default it ends with the frames given.

    Returns:
        A new array of the same dtype and shape but for kinds that remove frames; `frames` itself when severity is 0.

    Raises:
        ConfigError: the spec names an unknown kind or parameter, a value outside its range, a span beyond the clip, or wants
            the whole clip and is given a part of it.
        DataError: the frames have another shape or dtype, or a user's kind failed on them.
    """
    return _render(frames, spec, fps, first, count, masks=False).frames


def render_with_masks(frames: np.ndarray, spec: CorruptionSpec, *, fps: float = DEFAULT_FPS) -> Rendered:
    """Corrupt a whole clip and say where and how strongly each frame is affected. Arguments and errors as in `render`."""
    state = _render(frames, spec, fps, 0, None, masks=True)
    return Rendered(state.frames, state.source, state.times, state.opacity > 0, state.opacity)


def render_clip(clip: Clip, spec: CorruptionSpec) -> Clip:
    """Corrupt a clip and keep its time right.

    Where frames were cut out the clip lasts as long as before with fewer frames, so its rate is lower; spliced ones leave a
    shorter clip at the same rate. `source_indices` says which source frame each one is; a blank one counts as the frame
    whose place it takes. Errors as in `render`.
    """
    state = _render(clip.frames, spec, clip.fps, 0, None, masks=False)
    if state.frames is clip.frames:
        return clip
    indices = tuple(clip.source_indices[i] for i in state.stands_for)
    return make_clip(state.frames, state.fps, indices, clip.source_fps, clip.media_type)


def frame_map(spec: CorruptionSpec, count: int) -> FrameMap | None:
    """Which frames of a clip of `count` one spec shows when, without pixels; None where its kind rearranges nothing."""
    kind = check_spec(spec, count)
    if not kind.rearranges:
        return None
    start, stop = spec.span or (0, count)
    if spec.severity == 0 or stop - start < 2:
        return FrameMap.fill(np.arange(count))
    inner = kind.function(stop - start, Timeline(np.arange(1), 1.0, spec.seed).rng(), **kind.resolve(spec))
    return inner.within(start, stop, count)


@dataclass(slots=True)
class _State:
    """A clip on its way through a composition."""

    frames: np.ndarray
    fps: float
    source: np.ndarray
    stands_for: np.ndarray
    times: np.ndarray
    opacity: np.ndarray | None


def _render(frames: np.ndarray, spec: CorruptionSpec, fps: float, first: int, count: int | None, masks: bool) -> _State:
    _check_frames(frames, spec)
    if not (is_number(fps) and fps > 0):
        raise ConfigError(f"corruption '{spec.kind}': fps = {fps!r}: expected a positive number")
    numbers = np.arange(len(frames))
    state = _State(frames, float(fps), numbers, numbers, numbers.astype(float),
                   np.zeros(frames.shape[:3], np.float32) if masks else None)
    total = first + len(frames) if count is None else count
    for one in (spec, *spec.then):
        kind = check_spec(one, total)
        if (kind.rearranges or kind.whole_clip) and total != len(frames):
            raise ConfigError(f"corruption '{one.kind}' needs the whole clip: it was given frames {first} to"
                              f" {first + len(frames)} of {total}")
        if one.severity == 0:
            continue
        if kind.rearranges:
            _rearrange(state, frame_map(one, total))
            total = len(state.frames)
        else:
            _repaint(state, kind, one, first, total)
    return state


def _rearrange(state: _State, shown: FrameMap) -> None:
    count = len(state.frames)
    if np.array_equal(shown.source, np.arange(count)):
        return
    state.frames = shown.apply(state.frames)
    if len(shown.source) < count and not shown.spliced:
        state.fps *= len(shown.source) / count  # fewer frames in the same time
    blank = shown.source == BLANK
    state.source = np.where(blank, BLANK, state.source[shown.source])
    state.stands_for = state.stands_for[shown.stands_for()]
    state.times = np.interp(shown.times, np.arange(count), state.times)
    if state.opacity is not None:
        state.opacity = state.opacity[shown.source]
        state.opacity[shown.source != np.rint(shown.times)] = 1


def _repaint(state: _State, kind: Kind, spec: CorruptionSpec, first: int, total: int) -> None:
    start, stop = spec.span or (0, total)
    part = slice(max(start - first, 0), max(stop - first, 0))
    if state.frames[part].size == 0:
        return
    output = _to_colour(state.frames)
    index = np.arange(first, first + len(output))[part] - start
    layer = _call(kind, spec, output[part], Timeline(index, state.fps, spec.seed))
    before, state.frames = state.frames, _to_grey(output, state.frames)
    if state.opacity is not None:
        opacity = _opacity(before[part], state.frames[part], layer, kind)
        state.opacity[part] = 1 - (1 - state.opacity[part]) * (1 - opacity)


def _call(kind: Kind, spec: CorruptionSpec, frames: np.ndarray, timeline: Timeline) -> np.ndarray | None:
    try:
        layer = kind.function(frames, timeline, **kind.resolve(spec))
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise DataError(f"corruption '{kind.name}' failed on frames {frames.shape}: {type(error).__name__}:"
                        f" {' '.join(str(error).split())}", reason="corruption_error") from error
    if layer is None:
        return None
    if not (isinstance(layer, np.ndarray) and layer.dtype == np.uint8 and layer.shape == frames.shape[:3]):
        found = f"{layer.dtype} {layer.shape}" if isinstance(layer, np.ndarray) else type(layer).__name__
        raise DataError(f"corruption '{kind.name}' returned {found}: it must change the frames in place (frames[:] = ...) and"
                        f" return None or its opacity, uint8 {frames.shape[:3]}", reason="corruption_error")
    return layer


def _check_frames(frames: np.ndarray, spec: CorruptionSpec) -> None:
    fits = isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and (
        frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] in (1, 3)))
    if not fits or 0 in frames.shape[1:3]:
        found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise DataError(f"corruption '{spec.kind}': frames must be uint8 (T, H, W, 3), (T, H, W, 1) or (T, H, W) with H and W"
                        f" of 1 or more, got {found}", reason="frame_format")


def _to_colour(frames: np.ndarray) -> np.ndarray:
    if frames.ndim == 4 and frames.shape[3] == 3:
        return np.array(frames, order="C")
    return np.repeat(frames.reshape(*frames.shape[:3], 1), 3, axis=3)


def _to_grey(corrupted: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Back to the channels of the input; luma of equal channels is exactly their value."""
    if like.ndim == 4 and like.shape[3] == 3:
        return corrupted
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in corrupted]).reshape(like.shape)


def _opacity(before: np.ndarray, after: np.ndarray, layer: np.ndarray | None, kind: Kind) -> np.ndarray:
    if layer is not None:
        return layer / np.float32(255)
    if kind.measure == "motion":
        return np.ones(before.shape[:3], np.float32)
    change = np.abs(after.astype(np.int16) - before)
    return change.reshape(*before.shape[:3], -1).max(axis=-1) / np.float32(255)
