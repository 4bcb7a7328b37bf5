"""What holds for every kind: the same pixels everywhere and frame by frame, growing with severity, input untouched."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from clips import EXACT, FPS, GOLDEN, digests, real_frames, still

from squall.algorithms.corruption import (
    KINDS,
    CorruptionSpec,
    Parameter,
    Timeline,
    corruption,
    frame_map,
    make_spec,
    parse_spec,
    render,
    render_clip,
    render_with_masks,
)
from squall.algorithms.corruption import registry as registry_module
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import make_clip

NAMES = tuple(sorted(KINDS))
STAYING = tuple(name for name in NAMES if not KINDS[name].rearranges)
ALONE = tuple(name for name in STAYING if not KINDS[name].whole_clip)
SEEDLESS = {"dusk", "overexposure", "compression"}
FRAMES = real_frames()


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second).mean())


def test_the_families_hold_what_they_should():
    families = {kind.family: sum(other.family == kind.family for other in KINDS.values()) for kind in KINDS.values()}
    assert families == {"photometric": 4, "weather": 6, "occlusion": 3, "camera": 5, "temporal": 12, "mask": 3, "sensor": 2}
    assert all(kind.summary.endswith((".", ":")) or kind.summary for kind in KINDS.values())


@pytest.mark.parametrize("name", EXACT)
def test_golden_pixels(name):
    """Pixels change on purpose only: then run write_golden.py and note why in docs/log.md."""
    assert digests(name) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_render_the_golden_pixels_frame_by_frame(workers):
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(EXACT, pool.map(digests, EXACT, [True] * len(EXACT)), strict=True))
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", ALONE)
def test_a_part_of_a_clip_is_rendered_as_in_the_whole(name):
    spec = make_spec(name, 0.7, 11, span=(2, 7))
    whole = render(FRAMES, spec, fps=FPS)
    parts = [render(FRAMES[a:b], spec, fps=FPS, first=a, count=8) for a, b in ((0, 1), (1, 4), (4, 5), (5, 8))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(whole[[0, 1, 7]], FRAMES[[0, 1, 7]])
    assert all(not np.array_equal(whole[t], FRAMES[t]) for t in range(2, 7))


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone_and_strides_do_not_matter(name):
    strided = FRAMES[::2, ::-1, 3:80:2, ::-1]
    assert not strided.flags.writeable
    before, spec = strided.copy(), make_spec(name, 0.9, 5)
    output = render(strided, spec, fps=FPS)
    assert np.array_equal(strided, before) and not np.shares_memory(output, FRAMES)
    assert output.dtype == np.uint8 and output.shape[1:] == strided.shape[1:]
    assert np.array_equal(output, render(before, spec, fps=FPS))
    assert output.shape != strided.shape or not np.array_equal(output, strided)


@pytest.mark.parametrize("name", NAMES)
def test_grey_clips(name):
    grey, spec = FRAMES[..., 0], make_spec(name, 0.8, 3)
    flat = render(grey, spec, fps=FPS)
    channel = render(grey[..., None], spec, fps=FPS)
    assert flat.shape[1:] == grey.shape[1:] and np.array_equal(flat, channel[..., 0])
    assert flat.shape != grey.shape or not np.array_equal(flat, grey)


@pytest.mark.parametrize("name", STAYING)
def test_harm_grows_with_severity(name):
    for seed in range(2):
        levels = [mean_difference(render(FRAMES, make_spec(name, s, seed), fps=FPS), FRAMES) for s in (0.15, 0.5, 1.0)]
        assert levels[0] < levels[1] < levels[2] < 160 and levels[1] > 0.4, levels
        assert levels[0] > 0.2 or name.startswith(("motion", "mask")), levels  # small frames


@pytest.mark.parametrize("name", NAMES)
def test_nothing_happens_at_severity_zero_or_to_no_frames(name):
    assert render(FRAMES, make_spec(name, 0, 1), fps=FPS) is FRAMES
    assert np.array_equal(render(FRAMES, make_spec(name, 0.9, 1, span=(3, 3)), fps=FPS), FRAMES)
    masks = render_with_masks(FRAMES, make_spec(name, 0, 1), fps=FPS)
    assert masks.frames is FRAMES and not masks.where.any()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SEEDLESS])
def test_seeds_differ(name):
    assert len({render(FRAMES, make_spec(name, 0.6, seed), fps=FPS).tobytes() for seed in range(6)}) >= (
        2 if name.startswith("keep_k") else 3)  # few frames, spread evenly


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 57, 31), (2, 1, 1), (1, 3, 200), (33, 20, 20)])
def test_odd_clips(name, shape):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    output = render(frames, make_spec(name, 1.0, 2), fps=FPS)
    assert output.shape[1:] == frames.shape[1:] and 1 <= len(output) <= len(frames)
    assert not KINDS[name].rearranges or shape[0] > 1 or np.array_equal(output, frames)


@pytest.mark.parametrize("name", NAMES)
def test_masks_say_where_and_how_strongly(name):
    rendered = render_with_masks(FRAMES, make_spec(name, 0.8, 4), fps=FPS)
    assert np.array_equal(rendered.frames, render(FRAMES, make_spec(name, 0.8, 4), fps=FPS))
    shape = rendered.frames.shape[:3]
    assert rendered.where.dtype == bool and rendered.where.shape == shape and rendered.strength.shape == shape
    assert np.array_equal(rendered.where, rendered.strength > 0)
    assert name.endswith(("_cut", "_splice")) or 0 < rendered.strength.max() <= 1  # what is cut out has no mask
    assert rendered.source.shape == rendered.times.shape == shape[:1]


@pytest.mark.parametrize("name", ["blocks_static", "blocks_dynamic", "mask_pixels", "mask_blocks", "shadow", "lens_drops"])
def test_pixels_outside_the_mask_keep_their_values(name):
    rendered = render_with_masks(FRAMES, make_spec(name, 0.6, 4), fps=FPS)
    assert 0.005 < rendered.where.mean() < 1
    assert np.array_equal(rendered.frames[~rendered.where], FRAMES[~rendered.where])
    if name != "shadow" and name != "lens_drops":
        assert (rendered.strength[rendered.where] == 1).all()


def test_a_composition_is_one_after_the_other():
    text = "night 0.5 seed=1 + light_rain 0.8 seed=2 + random_drop_splice 0.5 seed=3 + noise 0.4 seed=4"
    spec = parse_spec(text)
    step = FRAMES
    for part in text.split(" + "):
        step = render(step, parse_spec(part), fps=FPS)
    assert len(step) < 8 and np.array_equal(render(FRAMES, spec, fps=FPS), step)
    rendered = render_with_masks(FRAMES, spec, fps=FPS)
    assert np.array_equal(rendered.frames, step) and len(rendered.source) == len(step)
    assert spec.name == "night+light_rain+random_drop_splice+noise"


def test_a_cut_clip_lasts_as_long_and_a_spliced_one_is_shorter():
    clip = make_clip(FRAMES, 8.0, tuple(range(100, 116, 2)), 16.0)
    cut, spliced, dropped = (render_clip(clip, make_spec(f"random_drop{end}", 0.6, 2, fraction=0.5)) for end in
                             ("_cut", "_splice", ""))
    assert (len(cut.frames), cut.fps) == (4, 4.0) and (len(spliced.frames), spliced.fps) == (4, 8.0)
    assert cut.source_indices == spliced.source_indices and set(cut.source_indices) < set(clip.source_indices)
    assert np.array_equal(cut.frames, FRAMES[[(i - 100) // 2 for i in cut.source_indices]])
    assert dropped.fps == 8.0 and dropped.source_indices == clip.source_indices and len(dropped.frames) == 8
    assert len({clip.content_hash, cut.content_hash, spliced.content_hash, dropped.content_hash}) == 4
    assert render_clip(clip, make_spec("fog", 0, 1)) is clip


def test_a_span_of_a_rearranged_clip():
    cut = frame_map(make_spec("segment_drop_cut", 0.6, 1, fraction=0.5, span=(2, 6)), 8)
    assert set(cut.source) >= {0, 1, 6, 7} and len(cut.source) == 6 and list(cut.times) == list(cut.source)
    spliced = frame_map(make_spec("segment_drop_splice", 0.6, 1, fraction=0.5, span=(2, 6)), 8)
    assert list(spliced.times) == list(range(6)) and list(spliced.source) == list(cut.source)
    assert frame_map(make_spec("fog", 0.5, 1), 8) is None


@pytest.fixture
def own_kind():
    """Registers a kind for one test."""
    added = []

    def add(function, **settings):
        added.append(function.__name__)
        return corruption("custom", **settings)(function)

    yield add
    for name in added:
        del registry_module._kinds[name]


def test_a_registered_function_is_a_kind(own_kind):
    def dimmed(frames: np.ndarray, timeline: Timeline, *, share: float) -> None:
        """Half the light."""
        frames[:] = frames * (1 - share)

    own_kind(dimmed, share=Parameter(lambda x: 0.5 * x, 0, 1))
    assert np.array_equal(render(FRAMES, make_spec("dimmed", 1.0, 1, calibration=0)), (FRAMES * 0.5).astype(np.uint8))
    assert str(make_spec("dimmed", 0.5, 1, share=0.25)).startswith("dimmed 0.5 seed=1 share=0.25")


def test_a_kind_with_weights_refuses_specs_of_others(own_kind):
    def learned(frames: np.ndarray, timeline: Timeline) -> None:
        frames[:] = 0

    own_kind(learned, checkpoint="abc123")
    spec = make_spec("learned", 0.5, 1)
    assert spec.checkpoint == "abc123" and "checkpoint=abc123" in str(spec)
    with pytest.raises(ConfigError, match="made with checkpoint other, this kind has abc123"):
        render(FRAMES, CorruptionSpec("custom", "learned", 0.5, 1, checkpoint="other"))


@pytest.mark.parametrize(("body", "message"), [
    (lambda frames: frames[99], "'broken' failed on frames (8, 60, 84, 3): IndexError: index 99 is out of bounds"),
    (lambda frames: frames[:, ::2].copy(), "'broken' returned uint8 (8, 30, 84, 3): it must change the frames in place"),
    (lambda frames: 0.5, "'broken' returned float: it must change the frames in place (frames[:] = ...) and return None"),
    (lambda frames: np.zeros(frames.shape[:3]), "returned float64 (8, 60, 84): it must"),
])
def test_a_broken_kind_is_explained(own_kind, body, message):
    def broken(frames: np.ndarray, timeline: Timeline):
        return body(frames)

    own_kind(broken)
    with pytest.raises(DataError) as error:
        render(FRAMES, make_spec("broken", 0.5, 1))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("frames", "found"), [
    (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
    (np.zeros((2, 8, 8, 3), np.float32), r"float32 \(2, 8, 8, 3\)"),
    (np.full((2, 8, 8, 3), np.nan), r"float64 \(2, 8, 8, 3\)"),
    (np.zeros((2, 8, 8, 4), np.uint8), r"uint8 \(2, 8, 8, 4\)"),
    (np.zeros((2, 0, 8, 3), np.uint8), r"uint8 \(2, 0, 8, 3\)"),
    ([[1]], "list"),
])
def test_wrong_frames_are_refused(frames, found):
    with pytest.raises(DataError, match=r"frames must be uint8 \(T, H, W, 3\), .* got " + found):
        render(frames, make_spec("dusk", 0.5, 1))


@pytest.mark.parametrize(("build", "message"), [
    (lambda: render(FRAMES, make_spec("fog", 0.5, 1, span=(4, 9))), "span = (4, 9) reaches beyond the clip's 8 frames"),
    (lambda: render(FRAMES[4:], make_spec("fog", 0.5, 1, span=(4, 9)), first=4), "beyond the clip's 8 frames"),
    (lambda: render(FRAMES[:2], make_spec("freeze", 0.5, 1), count=8), "'freeze' needs the whole clip: it was given frames 0"),
    (lambda: render(FRAMES, make_spec("fog", 0.5, 1), fps=0), "fps = 0: expected a positive number"),
    (lambda: render(FRAMES, make_spec("fog", 0.5, 1), fps=float("nan")), "fps = nan: expected a positive number"),
])
def test_what_cannot_be_rendered_is_explained(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_empty_clip_stays_empty():
    assert render(still(0, 8, 8), make_spec("heavy_rain", 0.5, 1)).shape == (0, 8, 8, 3)
