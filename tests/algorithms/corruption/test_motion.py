"""Weather, light and camera move as they do outside: with wind, gravity and the clock, not with the frame number."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from clips import real_frames, still

from squall.algorithms.corruption import make_spec, render, render_with_masks
from squall.algorithms.corruption.camera import source_matrix

PARTICLES = ("light_rain", "heavy_rain", "storm", "snow", "hail")
SLAB = {"near": 3.0, "far": 3.0, "gust": 0.0, "density": 45.0, "size": 0.09, "opacity": 1.0}
"""All particles at one distance, so that all move by the same number of pixels."""
SPEED = {"light_rain": 6.0, "heavy_rain": 8.5, "storm": 9.0, "snow": 1.1, "hail": 13.0}
SIDE, STEP = 160, 8.0
"""Pixels: side of the clip, and how far particles fall from frame to frame."""


def rate(name: str) -> float:
    """The frame rate at which a kind's particles fall by STEP pixels."""
    return SPEED[name] * SIDE / SLAB["near"] / STEP


def layer(name: str, seed: int, *, fps: float = 60.0, count: int = 6, **parameters: float) -> np.ndarray:
    """Opacity of a kind's particles over a still grey clip: float32 (T, H, W)."""
    sheets = {"sheets": 0.0} if name == "storm" else {}
    spec = make_spec(name, 0.5, seed, **SLAB | sheets | parameters)
    return render_with_masks(still(count, SIDE, SIDE), spec, fps=fps).strength


def moved(plane: np.ndarray, dx: float, dy: float) -> np.ndarray:
    return cv2.warpAffine(plane, np.array([[1, 0, dx], [0, 1, dy]], float), plane.shape[::-1])


def found_again(now: np.ndarray, then: np.ndarray, dx: float, dy: float) -> float:
    """Share of what is opaque now that is opaque within 2 pixels of where it should be one frame later."""
    expected = moved((now > 0.25).astype(np.float32), dx, dy) > 0.5
    reached = cv2.dilate((then > 0.25).astype(np.uint8), np.ones((5, 5), np.uint8))
    return float(reached[expected].mean())


@pytest.mark.parametrize("name", PARTICLES)
@pytest.mark.parametrize("heading", [-1, 1])
def test_particles_persist_and_follow_wind_and_gravity(name, heading):
    dx, dy = heading * STEP / 2, STEP
    own, other = (layer(name, seed, fps=rate(name), wind=SPEED[name] / 2, heading=heading) for seed in (1, 2))
    persistence = np.mean([found_again(own[t], own[t + 1], dx, dy) for t in range(5)])
    chance = np.mean([found_again(own[t], other[t + 1], dx, dy) for t in range(5)])
    backwards = np.mean([found_again(own[t], own[t + 1], -dx, -dy) for t in range(5)])
    assert persistence > 0.8 and chance < 0.5 and backwards < 0.75 * persistence, (persistence, chance, backwards)


@pytest.mark.parametrize("name", PARTICLES)
def test_flicker_is_neither_none_nor_noise(name):
    """Frames differ, but by a motion: moved along, a frame explains the next one far better than another seed's."""
    own, other = (layer(name, seed, fps=rate(name), wind=0.0) for seed in (1, 2))
    change = np.mean([np.abs(own[t + 1] - own[t]).mean() for t in range(5)])
    compensated = np.mean([np.abs(own[t + 1] - moved(own[t], 0, STEP))[20:].mean() for t in range(5)])
    noise = np.mean([np.abs(other[t + 1] - own[t])[20:].mean() for t in range(5)])
    assert change > 0.01 and compensated < 0.55 * noise, (change, compensated, noise)


@pytest.mark.parametrize("name", ["heavy_rain", "snow"])
def test_optical_flow_sees_the_fall(name):
    """What a flow method measures on the rendered pixels, over all depths, points down and along the wind."""
    spec = make_spec(name, 0.8, 3, wind=3.0, heading=1, gust=0.0, density=60, size=0.1, near=2.0, far=4.0)
    frames = [frame[..., 0] for frame in render(still(6, SIDE, SIDE), spec, fps=120)]
    flows = [cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 3, 21, 3, 5, 1.1, 0) for pair in itertools.pairwise(frames)]
    x, y = np.mean([flow[np.abs(flow).sum(-1) > 0.5].mean(axis=0) for flow in flows], axis=0)
    assert x > 0.2 and y > 0.2
    slope = 3.0 / SPEED[name]
    assert 0.4 * slope < x / y < 2.5 * slope


def test_speed_is_per_second():
    slow, fast = layer("snow", 1, fps=60, wind=0.0, sway=0.0), layer("snow", 1, fps=30, wind=0.0, sway=0.0)
    assert np.array_equal(fast[:3], slow[::2])
    shake = [render(real_frames(), make_spec("shake", 0.6, 1), fps=fps) for fps in (10, 20)]
    assert np.array_equal(shake[0][:1], shake[1][:1]) and not np.array_equal(shake[0][1:], shake[1][1:])


def test_near_particles_are_faster_longer_and_wider():
    near, far = (layer("heavy_rain", 1, near=z, far=z, wind=0.0, density=20.0, size=0.03, opacity=1.0)[0] for z in (2.0, 6.0))

    def largest(plane):
        count, _, boxes, _ = cv2.connectedComponentsWithStats((plane > 0.1).astype(np.uint8))
        assert count > 3
        return np.median(boxes[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]], axis=0)

    assert (largest(near) > 1.4 * largest(far)).all()


def test_exposure_makes_streaks():
    short, long = (layer("heavy_rain", 1, wind=0.0, exposure_s=e, density=20.0, size=0.03)[0] for e in (1 / 1000, 1 / 60))
    assert (long > 0.1).sum() > 2.5 * (short > 0.1).sum()


def test_lightning_comes_and_goes():
    frames = render(still(240, 16, 16, 100), make_spec("storm", 0.6, 3, lightning_per_s=1.0, density=0, sheets=0), fps=24)
    light = frames.mean(axis=(1, 2, 3))
    dark = np.median(light)
    assert 0.02 < (light > dark + 8).mean() < 0.4 and light.max() > dark + 25


@pytest.mark.parametrize(("name", "parameters"), [("fog", {}), ("shadow", {})])
def test_fields_drift_smoothly(name, parameters):
    first, other = (render_with_masks(still(8, SIDE, SIDE), make_spec(name, 0.6, seed, **parameters), fps=24).strength
                    for seed in (1, 2))
    steps = [np.abs(first[t + 1] - first[t]).mean() for t in range(7)]
    assert 0 < min(steps) and max(steps) < 0.25 * np.abs(first[3] - other[4]).mean()


def test_fog_is_thicker_far_away():
    strength = render_with_masks(still(4, SIDE, SIDE), make_spec("fog", 0.6, 1, patchiness=0), fps=24).strength[0]
    assert strength[:40].mean() > 1.15 * strength[-10:].mean()


def test_noise_is_new_in_every_frame_and_grows_with_light():
    dark, bright = (render(still(4, SIDE, SIDE, grey), make_spec("noise", 0.6, 1, read=2, shot=30)) for grey in (20, 180))
    assert len({frame.tobytes() for frame in dark}) == 4
    assert abs(dark.std() - np.hypot(2, 30 * np.sqrt(20 / 255))) < 1.2
    assert abs(bright.std() - np.hypot(2, 30 * np.sqrt(180 / 255))) < 1.5
    assert abs(bright.mean() - 180) < 1


def spot_path(name: str, **parameters: float) -> np.ndarray:
    """(T, 2): where a bright spot is on the frames of a corrupted still clip, in pixels."""
    y, x = np.mgrid[:SIDE, :SIDE]
    spot = np.exp(-((x - 80) ** 2 + (y - 80) ** 2) / 60) * 255
    frames = np.repeat(np.repeat(spot.astype(np.uint8)[None, ..., None], 24, 0), 3, -1)
    shaken = render(frames, make_spec(name, 0.5, 3, **parameters), fps=24).astype(float)[..., 0]
    return np.stack([(shaken * axis).sum(axis=(1, 2)) / shaken.sum(axis=(1, 2)) for axis in (x, y)], axis=-1)


@pytest.mark.parametrize("name", ["shake", "translation"])
def test_the_camera_path_is_smooth(name):
    centres = spot_path(name, translation=0.05)
    steps = np.diff(centres, axis=0)
    assert np.ptp(centres, axis=0).max() > 3
    assert np.abs(np.diff(steps, axis=0)).max() < 2.5  # pixels per frame squared


def test_smoothness_takes_the_tremor_away():
    paths = [spot_path("shake", translation=0.1, rotation_deg=0, zoom=0, smoothness=smoothness) for smoothness in (0.0, 1.0)]
    rough, smooth = (np.abs(np.diff(path, 2, axis=0)).mean() for path in paths)
    assert rough > 2 * smooth


def test_the_camera_is_placed_exactly():
    matrix = source_matrix(10, 10, 3, -2, 0, 1)
    assert matrix.tolist() == [[1, 0, -3], [0, 1, 2]]
    turned = source_matrix(10, 10, 0, 0, 90, 2)
    assert turned.tolist() == [[0, -0.5, 15], [0.5, 0, 5]]


def test_motion_blur_streaks_along_one_direction():
    y, x = np.mgrid[:SIDE, :SIDE]
    dot = (((x - 80) ** 2 + (y - 80) ** 2) < 9).astype(np.uint8) * 255
    frames = np.repeat(np.repeat(dot[None, ..., None], 2, 0), 3, -1)
    for length in (0.05, 0.2):
        blurred = render(frames, make_spec("motion_blur", 0.5, 3, length=length), fps=24)[0, ..., 0].astype(float)
        weights = np.array([blurred * (x - 80) ** 2, blurred * (y - 80) ** 2, blurred * (x - 80) * (y - 80)]).sum(axis=(1, 2))
        a, b, c = weights / blurred.sum()
        spread = np.sqrt(np.linalg.eigvalsh([[a, c], [c, b]]))
        assert 0.5 * length * SIDE < spread[1] * np.sqrt(12) < 1.2 * length * SIDE and spread[1] > 1.5 * spread[0]
        assert abs(blurred.sum() / dot.sum() - 1) < 0.1


def test_dynamic_blocks_glide_and_static_ones_stay():
    hidden = {name: render_with_masks(still(24, SIDE, SIDE), make_spec(name, 0.5, 3, coverage=0.3), fps=24).where
              for name in ("blocks_dynamic", "blocks_static")}
    changed = (hidden["blocks_dynamic"][1:] ^ hidden["blocks_dynamic"][:-1]).mean(axis=(1, 2)) / hidden["blocks_dynamic"].mean()
    assert 0 < changed.max() < 0.3 and 0.3 <= hidden["blocks_dynamic"][0].mean() < 0.42
    assert (hidden["blocks_static"] == hidden["blocks_static"][0]).all() and 0.3 <= hidden["blocks_static"].mean() < 0.42


def test_drops_show_the_scene_upside_down():
    frames = still(1, SIDE, SIDE, 0)
    frames[:, : SIDE // 2] = 200  # light above
    spec = make_spec("lens_drops", 0.5, 1, coverage=0.3, size=0.15)
    rendered = render_with_masks(frames, spec)
    lower = rendered.frames[0, SIDE // 2 + 20 :, :, 0][rendered.strength[0, SIDE // 2 + 20 :] == 1]
    assert len(lower) > 50 and lower.max() > 120  # the light sky, seen in drops that lie over the dark ground
