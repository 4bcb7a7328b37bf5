"""Tries a kind of corruption and says what is wrong with it: for kinds that users bring, and for ours.

    for result in check_kind("my_kinds:blur"):
        print(result.name, result.status, result.message)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from squall.algorithms.checking import CheckResult, Failed, Noted, best_ms, fresh_fingerprint, one_line, try_check
from squall.algorithms.corruption.registry import Kind, find_kind, function_name_of
from squall.algorithms.corruption.render import frame_map, render
from squall.algorithms.corruption.spec import make_spec
from squall.algorithms.corruption.timeline import BLANK, FrameMap, Timeline
from squall.platform.errors import SquallError
from squall.platform.records import CorruptionSpec

FPS = 24.0
SEED = 7
SEVERITY = 0.6
HARM_SEVERITIES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
HARM_SEEDS = (1, 2, 3, 4)
DIP = 0.1
"""Harm may fall from one severity to the next by this share of the largest: seeds draw other drops and blocks."""
SHAPES = ((1, 48, 64), (4, 1, 1), (4, 2, 2), (4, 3, 200), (4, 200, 3), (5, 47, 63))
SPEED_SHAPE = (16, 224, 224, 3)
SLOW = 400
"""Times a plain copy of the clip above which a kind holds training up on a few CPUs (about 20 ms where a copy takes 0.05)."""


def check_kind(name: str) -> tuple[CheckResult, ...]:
    """Check a kind by its name or as ``module:function``. A check that failed does not stop the others.

    Only the first one, that the kind can be imported and called on a clip, must pass for the rest to run. It starts a Python
    process of its own for one of them, and takes about a second for a fast kind.
    """
    return tuple(_check_all(name))


def fingerprint(name: str) -> str:
    """Hash of a small clip corrupted by a kind: the same in every process."""
    spec = make_spec(name, SEVERITY, SEED)
    return hashlib.sha256(_whole(sample_clip(), spec).tobytes()).hexdigest()


def sample_clip(frames: int = 16, height: int = 48, width: int = 64) -> np.ndarray:
    """A made-up clip with black, white, texture and motion: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    base = 120 + 60 * np.sin(x / 9.0) * np.cos(y / 7.0) + rng.normal(0, 8, (height, width))
    clip = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        shape = np.hypot(x - width * (0.2 + 0.6 * t / frames), y - height / 2) < height / 6
        for channel, tint in enumerate((1.0, 0.85, 0.7)):
            clip[t, :, :, channel] = np.where(shape, 255 - 60 * channel, base * tint).clip(0, 255)
    clip[:, : height // 6, : width // 6] = 0
    clip[:, : height // 6, -(width // 6) :] = 255
    return clip


def _check_all(name: str) -> Iterator[CheckResult]:
    try:
        kind = find_kind(name)
        what = (f"{function_name_of(kind.function)}: family {kind.family}, parameters "
                f"{', '.join((*kind.parameters, *(['severity'] if kind.takes_severity else []))) or 'none'}")
        yield CheckResult("found", "passed", what)
    except Exception as error:  # an import runs whatever the module does
        yield CheckResult("found", "failed", one_line(error))
        return
    called = try_check("called", lambda: _check_called(kind, name))
    yield called
    if called.status == "failed":
        return
    checks: tuple[tuple[str, Callable[[Kind, str], str]], ...] = (
        ("shape and type", _check_shape), ("input untouched", _check_input), ("same again", _check_repeatable),
        ("same elsewhere", _check_fresh_process), ("seeds", _check_seeds), ("severity 0", _check_identity),
        ("single frames", _check_single_frames), ("severity", _check_monotone), ("odd sizes", _check_sizes),
        ("speed", _check_speed))
    for title, check in checks:
        yield try_check(title, lambda check=check: check(kind, name))


def _check_called(kind: Kind, name: str) -> str:
    spec = make_spec(name, SEVERITY, SEED)
    if kind.rearranges:
        _check_map(kind.function(16, np.random.default_rng(SEED), **kind.resolve(spec)), 16)
    _whole(sample_clip(), spec)
    return f"ran on a clip of 16 frames of 64x48 at severity {SEVERITY:g}"


def _check_shape(kind: Kind, name: str) -> str:
    clip, spec = sample_clip(), make_spec(name, SEVERITY, SEED)
    if kind.rearranges:
        return f"a map of {len(clip)} frames to {len(frame_map(spec, len(clip)).source)}, times ascending"
    output = render(clip, spec, fps=FPS)  # a wrong return value is an error of its own
    if (output.shape, output.dtype) != (clip.shape, clip.dtype):
        raise Failed(f"expected {clip.dtype} {clip.shape}, got {output.dtype} {output.shape}; change the frames in place")
    return f"uint8 {clip.shape} stays as it is; what it returns is None or its opacity"


def _check_input(kind: Kind, name: str) -> str:
    spec, clip = make_spec(name, SEVERITY, SEED), sample_clip()
    expected = _whole(clip.copy(), spec)
    read_only = clip.copy()
    read_only.flags.writeable = False
    wide = np.zeros((*clip.shape[:2], 2 * clip.shape[2], 3), np.uint8)
    wide[:, :, ::2] = clip
    for title, given in (("writable", clip.copy()), ("read-only", read_only), ("strided", wide[:, :, ::2])):
        if not np.array_equal(_whole(given, spec), expected):
            raise Failed(f"a {title} clip comes out with other pixels than a plain copy of it; read pixels from `frames` alone")
        if not np.array_equal(given, clip):
            raise Failed(f"a {title} clip was written to; change only the array `frames` that the function is given")
    grey = clip[..., 0].copy()
    for given in (grey, grey[..., None]):
        before, output = given.copy(), _whole(given, spec)
        if output.shape[1:] != given.shape[1:] or not np.array_equal(given, before):
            raise Failed(f"a grey clip {given.shape} came out as {output.shape} or was written to")
    return "writable, read-only, strided and grey clips come out alike and are never written to"


def _check_repeatable(kind: Kind, name: str) -> str:
    spec, clip = make_spec(name, SEVERITY, SEED), sample_clip()
    first = _whole(clip, spec)
    np.random.seed(1)  # noqa: NPY002 (a kind that draws from numpy's global state is to be noticed)
    second = _whole(clip, spec)
    if not _equal(first, second):
        raise Failed(f"the same spec and clip gave other pixels the second time ({_difference(first, second)}); draw "
                     "randomness from timeline.rng() and timeline.per_frame(), and keep nothing between calls")
    return "the same spec and clip give the same pixels"


def _check_fresh_process(kind: Kind, name: str) -> str:
    if fresh_fingerprint(__name__, name) != fingerprint(name):
        raise Failed("a new process renders other pixels; let nothing depend on hash(), the clock, the process or its state")
    return "a new process renders the same pixels"


def _check_seeds(kind: Kind, name: str) -> str:
    clip = sample_clip()
    outputs = [_whole(clip, make_spec(name, SEVERITY, seed)) for seed in (1, 2, 3)]
    if all(_equal(outputs[0], other) for other in outputs[1:]):
        raise Noted("seeds 1, 2 and 3 give the same pixels: right for an effect without chance; else use timeline.rng()")
    return "other seeds give other pixels"


def _check_identity(kind: Kind, name: str) -> str:
    clip = sample_clip()
    if not np.array_equal(_whole(clip, make_spec(name, 0.0, SEED)), clip):
        raise Failed("severity 0 changes the clip")
    if not kind.takes_severity:
        return "severity 0 leaves the clip as it is"
    touched = clip.copy()
    kind.function(touched, Timeline(np.arange(len(clip)), FPS, SEED), **kind.resolve(make_spec(name, 0.0, SEED)))
    if not np.array_equal(touched, clip):
        raise Failed(f"expected unchanged frames at severity 0, got a mean change of {_harm_of(touched, clip):.2f} of 255. "
                     "Squall does not call it at 0, so a small severity would be a jump: let the effect grow from nothing")
    return "called with severity 0 it changes nothing"


def _check_single_frames(kind: Kind, name: str) -> str:
    if kind.rearranges:
        raise Noted("not checked: it rearranges frames, so none stands alone")
    if kind.whole_clip:
        raise Noted("not checked: frames depend on each other, so it is always given the whole clip")
    spec, clip = make_spec(name, SEVERITY, SEED), sample_clip()
    whole = render(clip, spec, fps=FPS)
    for t in range(len(clip)):
        alone = render(clip[t : t + 1], spec, fps=FPS, first=t, count=len(clip))[0]
        if not np.array_equal(alone, whole[t]):
            raise Failed(f"frame {t} alone differs from frame {t} of the whole clip ({_difference(alone, whole[t])}); let each "
                         "frame follow from its own pixels, timeline.index, timeline.seconds, timeline.rng() and "
                         "timeline.per_frame(), not from its place in `frames` or from its neighbours")
    return f"each of {len(clip)} frames alone is that frame of the whole clip"


def _check_monotone(kind: Kind, name: str) -> str:
    clip = sample_clip(height=96, width=128)
    harms = [float(np.mean([_harm(kind, clip, make_spec(name, severity, seed)) for seed in HARM_SEEDS]))
             for severity in HARM_SEVERITIES]
    unit = "of the frames lost or out of place" if kind.rearranges else "of 255 mean change"
    shown = ", ".join(f"{harm:.2g} at {severity:g}" for harm, severity in zip(harms, HARM_SEVERITIES, strict=True))
    if max(harms) == 0:
        raise Failed("it changes nothing at any severity; write to the frames in place (frames[:] = ...)")
    if max(harms) - min(harms) <= 1e-9:
        advice = "" if kind.takes_severity or kind.parameters else "; take a keyword `severity` and let the effect grow with it"
        raise Failed(f"severity has no effect: {harms[0]:.3g} {unit} at every one{advice}")
    for earlier, later in zip(range(len(harms)), range(1, len(harms)), strict=False):
        if harms[later] < harms[earlier] - DIP * max(harms):
            raise Failed(f"harm falls from severity {HARM_SEVERITIES[earlier]:g} to {HARM_SEVERITIES[later]:g}: {shown} "
                         f"({unit}); expected it to grow, but for small dips")
    if harms[-1] <= harms[0]:
        raise Failed(f"harm does not grow with severity: {shown} ({unit})")
    return f"harm grows: {shown} ({unit})"


def _check_sizes(kind: Kind, name: str) -> str:
    spec = make_spec(name, SEVERITY, SEED)
    for frames, height, width in SHAPES:
        what = f"{frames} frame{'s' if frames > 1 else ''} of {width}x{height}"
        try:
            output = _whole(sample_clip(frames, height, width), spec)
        except SquallError as error:
            raise Failed(f"{what}: {one_line(error)}") from None
        if output.shape[1:3] != (height, width):
            raise Failed(f"{what} came out as {output.shape}")
    return ", ".join(f"{frames} of {width}x{height}" for frames, height, width in SHAPES)


def _check_speed(kind: Kind, name: str) -> str:
    clip = sample_clip(*SPEED_SHAPE[:3])
    spec = make_spec(name, SEVERITY, SEED)
    copy_ms = best_ms(lambda: clip.copy(), 20)
    own_ms = best_ms(lambda: _whole(clip, spec), 5)
    shape = "x".join(map(str, SPEED_SHAPE))
    text = f"{own_ms:.2f} ms for a clip of {shape}, {own_ms / copy_ms:,.0f} times a copy ({copy_ms:.2f} ms)"
    if own_ms > SLOW * copy_ms:
        raise Noted(f"{text}; above {SLOW} a worker may not keep up with training: use OpenCV, or work at a lower resolution")
    return text


def _check_map(shown: object, count: int) -> None:
    """Whether a rearranger's answer can be followed."""
    if not isinstance(shown, FrameMap):
        raise Failed(f"expected a FrameMap, got {type(shown).__name__}; return FrameMap.fill, cut or splice of frame numbers")
    bad = shown.source[(shown.source < BLANK) | (shown.source >= count)]
    if bad.size:
        raise Failed(f"expected frame numbers from -1 (blank) to {count - 1} in the map's `source`, got {int(bad[0])}")
    if len(shown.times) != len(shown.source) or np.any(np.diff(shown.times) <= 0):
        raise Failed("expected ascending `times` of the map, one for each frame shown; use FrameMap.fill, cut or splice")
    if not len(shown.source):
        raise Failed("no frame is left; keep one at least")


def _whole(clip: np.ndarray, spec: CorruptionSpec) -> np.ndarray:
    return render(clip, spec, fps=FPS)


def _harm(kind: Kind, clip: np.ndarray, spec: CorruptionSpec) -> float:
    if not kind.rearranges:
        return _harm_of(render(clip, spec, fps=FPS), clip)
    count = 60
    shown = frame_map(spec, count)
    if shown.spliced:
        return 1 - len(shown.source) / count
    in_place = np.abs(shown.times - shown.source) < 0.5
    return 1 - int(in_place.sum()) / count


def _harm_of(output: np.ndarray, clip: np.ndarray) -> float:
    return float(np.abs(output.astype(np.int16) - clip).mean())


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second)


def _difference(first: np.ndarray, second: np.ndarray) -> str:
    if first.shape != second.shape:
        return f"shape {second.shape} instead of {first.shape}"
    changed = np.any(first != second, axis=-1).mean()
    return f"{changed:.1%} of the pixels, by {_harm_of(first, second):.2g} of 255 on average"
