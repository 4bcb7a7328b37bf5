"""Distortions: what each does to pixels, that it comes again with its seed, and which names are refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from spot_victim import noise_clip

from squall.algorithms.corruption import STANDARD_KINDS, parse_spec, render
from squall.algorithms.video_attack.distortions import DISTORTIONS, find_distortion
from squall.platform.errors import ConfigError

CLIP = noise_clip()


@pytest.mark.parametrize("name", [*DISTORTIONS, *STANDARD_KINDS, "night + snow", "mask_blocks"])
def test_every_distortion_keeps_the_shape_and_comes_again_with_its_seed(name: str) -> None:
    before = CLIP.copy()
    first = find_distortion(name).distorted(CLIP, seed=5)
    assert first.shape == CLIP.shape and first.dtype == np.uint8 and (first != CLIP).any()
    assert np.array_equal(first, find_distortion(name).distorted(CLIP, seed=5))
    assert np.array_equal(CLIP, before)


def test_noise_stands_still_and_has_its_deviation() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    change = find_distortion("gaussian_noise").distorted(grey, seed=1, severity=0.1).astype(float) - 128
    assert abs(change.std() - 12.8) < 0.3 and abs(change.mean()) < 0.3
    assert (change == change[0]).all()
    assert (find_distortion("gaussian_noise").distorted(grey, seed=2, severity=0.1) != change + 128).any()


def test_dead_pixels_are_black_and_brightness_adds() -> None:
    dead = find_distortion("dead_pixel").distorted(CLIP, seed=3, severity=0.5)
    gone = (dead == 0).all(-1)
    assert abs(gone.mean() - 0.25) < 0.04 and (gone == gone[0]).all() and np.array_equal(dead[~gone], CLIP[~gone])
    brighter = find_distortion("brightness").distorted(CLIP, seed=0, severity=0.25)
    assert np.array_equal(brighter, np.minimum(CLIP.astype(int) + 40, 255))


def test_blur_smooths_and_jpeg_is_that_of_its_quality() -> None:
    assert find_distortion("blur").distorted(CLIP, seed=0).std() < 0.2 * CLIP.std()
    frame = find_distortion("jpeg").distorted(CLIP, seed=0, severity=0.5)[0]
    _, coded = cv2.imencode(".jpg", CLIP[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 49])
    assert np.array_equal(frame, cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def test_levels_go_from_clean_to_the_severity_with_one_pattern() -> None:
    grey = np.full_like(CLIP, 128)
    levels = find_distortion("gaussian_noise").levels(grey, seed=4, count=2, severity=0.2).astype(float) - 128
    assert levels.shape == (3, *CLIP.shape) and not levels[0].any()
    assert np.abs(levels[2] - 2 * levels[1]).max() <= 1.5


def test_a_kind_of_the_corruption_engine_is_rendered_by_it() -> None:
    expected = render(CLIP, parse_spec("heavy_rain wind=2", severity=0.5, seed=9))
    assert np.array_equal(find_distortion("heavy_rain wind=2").distorted(CLIP, seed=9, severity=0.5), expected)


@pytest.mark.parametrize(("name", "message"), [
    ("fogg", r"unknown distortion 'fogg'. Did you mean 'fog'\? Allowed: gaussian_noise, blur, .*, or module:function"),
    ("fog + learned:a", "attackers choose cells, so what they distort them with cannot be attackers' own"),
    ("gausian_noise", "Did you mean 'gaussian_noise'"),
    ("", "unknown distortion ''. Allowed"),
    ("fog 0.5", "distortion 'fog 0.5': leave severity and seed out; the attack sets them"),
    ("night + snow seed=3", "leave severity and seed out"),
    ("fog + keep_k_cut", "keep_k_cut takes frames away; choose one that keeps their number"),
    ("fog wnd=2", "unknown key 'wnd'"),
    ("no.such:function", "Expected module:function"),
])
def test_names_that_are_no_distortion_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_distortion(name)


def test_a_distortion_that_takes_frames_of_this_clip_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="distortion 'keep_k_cut k=16' makes 16 frames of 32; choose one that keeps"):
        find_distortion("keep_k_cut k=16").distorted(noise_clip(frames=32), seed=0)
