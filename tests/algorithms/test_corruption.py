"""Corruptions: the same pixels everywhere, growing with severity, moving as weather does, input untouched."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from squall.algorithms.corruption import KINDS, make_spec, render, sample_spec, shuffle_frames
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import CorruptionSpec

FAMILIES = {
    "photometric": {"dusk", "night", "overexposure"},
    "weather": {"rain", "snow", "fog"},
    "occlusion": {"blocks_static", "blocks_dynamic"},
    "camera": {"shake"},
    "temporal": {"segment_drop", "random_drop", "freeze"},
}
NAMES = sorted(KINDS)
PARTICLES = ("rain", "snow")
TEMPORAL = tuple(sorted(FAMILIES["temporal"]))
DRAWN = tuple(name for name in NAMES if name not in {"dusk", "overexposure"})
"""Kinds whose pixels depend on the seed."""

GOLDEN = {
    "blocks_dynamic": "dd6f90313d40ef18",
    "blocks_static": "af135a7f3887f99f",
    "dusk": "cb92daea8ce5421d",
    "fog": "bfd956ff666c44ac",
    "freeze": "3dc1125b34f450c9",
    "night": "4815ad056f43c77a",
    "overexposure": "ec42f5cb4c7aa98e",
    "rain": "1fee291e17a8ebe2",
    "random_drop": "baf9decd90bde71e",
    "segment_drop": "7307c395f251ab0f",
    "shake": "f761f8d1dcd70fb2",
    "snow": "26e87c34f9cc53f6",
}


def moving_texture(count: int, height: int, width: int) -> np.ndarray:
    """Smooth waves that move, in integers only: (count, height, width, 3)."""
    t, y, x = np.ogrid[:count, :height, :width]
    phases = (x * 512 // width + 9 * t, y * 512 // height + 5 * t, (x + y) * 512 // (height + width) + 17 * t)
    waves = [np.abs((phase * 2) % 510 - 255) for phase in phases]
    return np.stack(np.broadcast_arrays(*waves), axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    frames = moving_texture(8, 56, 56)
    frames.setflags(write=False)
    return frames


def still(count: int, height: int, width: int) -> np.ndarray:
    return np.full((count, height, width, 3), 60, np.uint8)


def digest(name: str) -> str:
    frames = moving_texture(6, 60, 84)
    hashes = hashlib.sha256()
    for seed, severity in enumerate((0.3, 0.6, 0.9)):
        hashes.update(render(frames, make_spec(name, severity, seed)).tobytes())
    return hashes.hexdigest()[:16]


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second).mean())


def test_families_hold_their_kinds():
    found = {family: {kind.name for kind in KINDS.values() if kind.family == family} for family in FAMILIES}
    assert found == FAMILIES
    assert len(KINDS) == 12


@pytest.mark.parametrize("name", NAMES)
def test_golden_pixels(name):
    """Pixels change on purpose only: after such a change, print `digest(name)` and note why in the log."""
    assert digest(name) == GOLDEN[name]


def test_another_process_renders_the_same_pixels():
    program = "import test_corruption as t; print(' '.join(t.digest(name) for name in t.NAMES))"
    here = Path(__file__).resolve()
    paths = f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[2])!r}]; "
    result = subprocess.run([sys.executable, "-c", paths + program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [digest(name) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name, clip):
    before = clip.copy()
    output = render(clip, make_spec(name, 0.9, 3))
    assert np.array_equal(clip, before)
    assert output.dtype == np.uint8 and output.shape == clip.shape
    assert not np.shares_memory(output, clip)
    assert not np.array_equal(output, clip)


@pytest.mark.parametrize("name", NAMES)
def test_strides_do_not_matter(name):
    frames = moving_texture(8, 40, 90)
    strided = frames[::2, ::-1, 3:80:2, ::-1]
    spec = make_spec(name, 0.7, 5)
    assert np.array_equal(render(strided, spec), render(strided.copy(), spec))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 56, 56), (16, 112, 112)])
def test_effect_grows_with_severity(name, shape):
    frames = moving_texture(*shape)
    for seed in range(3):
        mild, clear, severe = (
            mean_difference(render(frames, make_spec(name, severity, seed)), frames) for severity in (0.2, 0.5, 0.9)
        )
        assert 1 < mild < clear < severe < 128


@pytest.mark.parametrize("name", NAMES)
def test_severity_zero_and_empty_span_change_nothing(name, clip):
    assert np.array_equal(render(clip, make_spec(name, 0, 1)), clip)
    assert np.array_equal(render(clip, make_spec(name, 0.9, 1, span=(3, 3))), clip)
    assert np.array_equal(render(clip, make_spec(name, 0.9, 1, span=(8, 12))), clip)


@pytest.mark.parametrize("name", NAMES)
def test_span_limits_the_frames(name, clip):
    output = render(clip, make_spec(name, 0.9, 1, span=(2, 6)))
    changed = np.abs(output.astype(int) - clip).max(axis=(1, 2, 3)) > 0
    assert not changed[[0, 1, 6, 7]].any()
    assert changed[2:6].sum() >= 2


@pytest.mark.parametrize("name", DRAWN)
def test_seeds_differ(name, clip):
    renders = {render(clip, make_spec(name, 0.6, seed)).tobytes() for seed in range(6)}
    assert len(renders) >= 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 56, 56), (2, 57, 31), (3, 1, 1), (1, 3, 200), (40, 20, 20)])
def test_odd_clips(name, shape):
    frames = np.repeat(moving_texture(*shape)[..., :1], 3, axis=-1)
    output = render(frames, make_spec(name, 1.0, 2))
    assert output.shape == frames.shape
    if shape[0] == 1 and name in TEMPORAL:
        assert np.array_equal(output, frames)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TEMPORAL])
def test_a_longer_clip_continues_a_shorter_one(name):
    frames = moving_texture(12, 56, 56)
    spec = make_spec(name, 0.6, 4)
    assert np.array_equal(render(frames, spec)[:5], render(frames[:5], spec))


def layer(name: str, seed: int, severity: float = 0.5) -> np.ndarray:
    """What a kind adds to a still grey clip, without the even part: float (T, H, W)."""
    frames = still(8, 112, 112)
    added = render(frames, make_spec(name, severity, seed, haze=0)).astype(float)[..., 0] - 60
    return added - added.mean()


def best_shifted_correlation(earlier: np.ndarray, later: np.ndarray) -> float:
    """Largest correlation of `later` with `earlier` moved down by 1..24 and sideways by up to 12 pixels."""
    best = -1.0
    for down in range(1, 25):
        for side in range(-12, 13):
            moved = np.roll(earlier, (down, side), axis=(0, 1))[down:, 12:-12]
            best = max(best, float(np.corrcoef(moved.ravel(), later[down:, 12:-12].ravel())[0, 1]))
    return best


@pytest.mark.parametrize("name", PARTICLES)
def test_particles_fall_instead_of_flickering(name):
    """Moved down, a frame's particles explain those of the next frame; those of another seed they do not."""
    first, other = layer(name, 1), layer(name, 2)
    assert all(mean_difference(first[t], first[t + 1]) > 1 for t in range(7))  # no frozen decal
    advected = np.mean([best_shifted_correlation(first[t], first[t + 1]) for t in (1, 4)])
    unrelated = np.mean([best_shifted_correlation(first[t], other[t + 1]) for t in (1, 4)])
    assert advected > 0.4 and unrelated < 0.2  # measured: rain 0.53 and 0.05, snow 0.71 and 0.11


def test_fog_drifts_smoothly():
    first, other = (render(still(8, 112, 112), make_spec("fog", 0.5, seed)) for seed in (1, 2))
    steps = [mean_difference(first[t], first[t + 1]) for t in range(7)]
    assert 0 < min(steps) and max(steps) < 0.25 * mean_difference(first[3], other[4])


def test_night_noise_changes_with_every_frame():
    dark = render(still(4, 56, 56), make_spec("night", 0.9, 1))
    assert len({frame.tobytes() for frame in dark}) == 4


@pytest.mark.parametrize("name", ["blocks_static", "blocks_dynamic"])
def test_blocks_cover_the_stated_area(name):
    frames = still(16, 112, 112)
    covered = (render(frames, make_spec(name, 0.5, 3, coverage=0.4, shade=0)) == 0).all(axis=-1).mean(axis=(1, 2))
    assert 0.4 <= covered[0] < 0.52
    assert np.abs(covered - covered[0]).max() < (1e-9 if name == "blocks_static" else 0.12)


def test_dynamic_blocks_glide():
    frames = still(16, 112, 112)
    hidden = render(frames, make_spec("blocks_dynamic", 0.3, 3, shade=0))[..., 0] == 0
    changed = (hidden[1:] ^ hidden[:-1]).mean(axis=(1, 2)) / hidden.mean()
    assert 0 < changed.max() < 0.5


def test_shake_path_is_smooth():
    y, x = np.mgrid[:112, :112]
    spot = np.exp(-((x - 56) ** 2 + (y - 56) ** 2) / 60) * 255
    frames = np.repeat(np.repeat(spot.astype(np.uint8)[None, ..., None], 16, 0), 3, -1)
    shaken = render(frames, make_spec("shake", 0.5, 3)).astype(float)[..., 0]
    centers = np.stack([(shaken * axis).sum(axis=(1, 2)) / shaken.sum(axis=(1, 2)) for axis in (x, y)], axis=-1)
    steps = np.diff(centers, axis=0)
    assert np.ptp(centers, axis=0).max() > 2
    assert np.abs(np.diff(steps, axis=0)).max() < 2  # pixels per frame squared


@pytest.mark.parametrize(("name", "lost"), [("segment_drop", 6), ("random_drop", 6)])
def test_dropped_frames_are_black_and_counted(name, lost):
    frames = moving_texture(16, 8, 8)
    frames[frames == 0] = 1
    for seed in range(5):
        output = render(frames, make_spec(name, 0.6, seed))
        black = (output == 0).all(axis=(1, 2, 3))
        assert black.sum() == lost
        assert np.array_equal(output[~black], frames[~black])


def test_segments_are_runs():
    frames = np.full((64, 2, 2, 3), 9, np.uint8)
    black = (render(frames, make_spec("segment_drop", 0.2, 1, run_frames=4)) == 0).all(axis=(1, 2, 3))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], black, [0]])))
    assert black.sum() == 8 and set(edges[1::2] - edges[::2]) <= {4, 8}


def test_freeze_repeats_one_frame():
    frames = moving_texture(16, 8, 8)
    output = render(frames, make_spec("freeze", 0.5, 1))
    repeated = [t for t in range(1, 16) if np.array_equal(output[t], output[t - 1])]
    assert len(repeated) == 7 and repeated == list(range(repeated[0], repeated[0] + 7))
    assert np.array_equal(output[0], frames[0])


def test_parameters_override_severity(clip):
    assert render(clip, make_spec("dusk", 0.5, 1, gain=0.0)).max() == 0
    assert make_spec("dusk", 0.5, 1, gain=0.2).parameters == {"gain": 0.2}


@pytest.mark.parametrize(("build", "message"), [
    (lambda: make_spec("rian", 0.5, 1), "unknown corruption kind 'rian'. Did you mean 'rain'? Allowed: "),
    (lambda: make_spec("rain", 0.5, 1, widht=0.1), "unknown parameter 'widht'. Did you mean 'width'? Allowed: "),
    (lambda: make_spec("rain", 0.5, 1, width=3), "'rain': width = 3: expected a number from 0 to 0.1"),
    (lambda: make_spec("dusk", 1.5, 1), "severity = 1.5: expected a number from 0 to 1"),
    (lambda: make_spec("dusk", float("nan"), 1), "severity = nan: expected a number from 0 to 1"),
    (lambda: make_spec("dusk", 0.5, -1), "seed = -1: expected an integer of 0 or more"),
    (lambda: make_spec("dusk", 0.5, 1, span=(4, 2)), "span = (4, 2): expected 0 <= start <= stop"),
    (lambda: render(still(1, 8, 8), CorruptionSpec("wether", "fog", 0.5, 1)), "its family is 'weather', not 'wether'"),
    (lambda: sample_spec(1, [], (0.1, 0.2)), "no corruption kinds to draw from. Allowed: "),
    (lambda: sample_spec(1, ["fogg"], (0.1, 0.2)), "Did you mean 'fog'?"),
    (lambda: sample_spec(1, ["fog"], (0.5, 0.2)), "severity = (0.5, 0.2): expected 0 <= low <= high <= 1"),
])
def test_bad_specs_are_explained(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("frames", [np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32)])
def test_wrong_frames_are_refused(frames):
    with pytest.raises(DataError, match=r"must be uint8 \(T, H, W, 3\), got "):
        render(frames, make_spec("dusk", 0.5, 1))


def test_sampled_specs_follow_from_the_seed():
    specs = [sample_spec(seed, NAMES, (0.3, 0.7)) for seed in range(600)]
    assert specs[17] == sample_spec(17, NAMES, (0.3, 0.7))
    counts = [sum(spec.kind == name for spec in specs) for name in NAMES]
    assert min(counts) > 25 and max(counts) < 80  # 50 expected of each
    severities = np.array([spec.severity for spec in specs])
    assert severities.min() >= 0.3 and severities.max() <= 0.7 and abs(severities.mean() - 0.5) < 0.02
    assert len({spec.seed for spec in specs}) == 600


def test_shuffle_is_never_the_identity():
    frames = moving_texture(3, 4, 4)
    orders = []
    for seed in range(300):
        shuffled, permutation = shuffle_frames(frames, seed)
        assert sorted(permutation) == [0, 1, 2]
        assert np.array_equal(shuffled, frames[permutation])
        assert np.array_equal(permutation, shuffle_frames(frames, seed)[1])
        orders.append(tuple(permutation.tolist()))
    counts = {order: orders.count(order) for order in set(orders)}
    assert (0, 1, 2) not in counts
    assert len(counts) == 5 and min(counts.values()) > 35  # 60 expected of each


def test_shuffle_of_one_frame_returns_it():
    frames = moving_texture(1, 4, 4)
    shuffled, permutation = shuffle_frames(frames, 0)
    assert np.array_equal(shuffled, frames) and permutation.tolist() == [0]
