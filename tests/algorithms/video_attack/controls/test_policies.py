"""Policies for one clip: gradients agree with differences, and frames are judged as SVA judges them."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.video_attack.controls.policies import (
    Baseline,
    FramePolicy,
    PlacePolicy,
    Table,
    diversity,
    frame_features,
    representativeness,
)


def differences(policy: FramePolicy | PlacePolicy, choice: np.ndarray) -> np.ndarray:
    slopes = np.zeros_like(policy.logits)
    for index in np.ndindex(policy.logits.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = policy.logits.copy()
            moved[index] += step
            sides.append(type(policy)(moved, policy.rate).log_probability(choice))
        slopes[index] = (sides[0] - sides[1]) / 2e-6
    return slopes


def test_gradients_agree_with_differences() -> None:
    rng = np.random.default_rng(0)
    frames, places = FramePolicy(rng.normal(size=5), 0.1), PlacePolicy(rng.normal(size=(3, 4)), 0.1)
    mask, chosen = np.array([1, 0, 0, 1, 1], bool), np.array([2, 0, 3])
    assert frames.gradient(mask) == pytest.approx(differences(frames, mask), abs=1e-6)
    assert places.gradient(chosen) == pytest.approx(differences(places, chosen), abs=1e-6)


def test_samples_come_as_often_as_the_probabilities_say() -> None:
    rng = np.random.default_rng(0)
    frames = FramePolicy(np.log([9.0, 1.0, 1 / 3]), 0.1)
    assert np.mean([frames.sample(rng) for _ in range(4000)], axis=0) == pytest.approx([0.9, 0.5, 0.25], abs=0.05)
    places = PlacePolicy(np.log([[0.2, 0.7, 0.1]]), 0.1)
    drawn = np.array([places.sample(rng)[0] for _ in range(4000)])
    assert np.bincount(drawn) / 4000 == pytest.approx([0.2, 0.7, 0.1], abs=0.03)


def test_a_mask_is_never_empty() -> None:
    assert FramePolicy(np.array([-60.0, -50, -60]), 0.1).sample(np.random.default_rng(0)).tolist() == [False, True, False]


def test_adam_moves_by_its_rate_first_whatever_the_gradient() -> None:
    table = Table(np.zeros(3), 0.1)
    table.ascend(np.array([5.0, -0.01, 0.0]))
    assert table.logits == pytest.approx([0.1, -0.1, 0.0], abs=1e-6)
    table.ascend(np.array([5.0, 0.01, 0.0]))
    assert table.logits == pytest.approx([0.2, -0.1 + 0.1 * (0.1 - 0.09) / 0.19, 0.0], abs=1e-5)


def test_a_baseline_moves_a_tenth_of_the_way() -> None:
    baseline = Baseline()
    assert [baseline.advantage(reward) for reward in (1.0, 1.0, 0.0)] == pytest.approx([1.0, 0.9, -0.19])


def test_diverse_frames_are_far_apart_or_unlike() -> None:
    features = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0]])
    assert diversity(features, np.array([1, 1, 0, 0, 0], bool)) == 1.0
    assert diversity(features, np.array([1, 0, 0, 1, 0], bool)) == 0.0
    assert diversity(features, np.array([1, 0, 0, 0, 1], bool)) == 1.0
    assert diversity(features, np.array([1, 1, 1, 0, 0], bool)) == pytest.approx(2 / 3)
    assert diversity(features, np.array([0, 0, 1, 0, 0], bool)) == 0.0


def test_representative_frames_are_near_to_all() -> None:
    features = np.array([[0.0], [1], [2]])
    assert representativeness(features, np.array([1, 1, 1], bool)) == 1.0
    assert representativeness(features, np.array([0, 1, 0], bool)) == pytest.approx(np.exp(-2 / 3))
    assert representativeness(features, np.array([1, 0, 0], bool)) == pytest.approx(np.exp(-5 / 3))


def test_features_are_small_centred_pictures_of_unit_size() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 20, 12, 3)).astype(np.uint8)
    features = frame_features(clip)
    assert features.shape == (4, 8 * 8 * 3)
    assert features.mean(0) == pytest.approx(0, abs=1e-12) and (features**2).sum(1).mean() == pytest.approx(1)
    halves = np.zeros((2, 4, 4, 3), np.uint8)
    halves[1, :, 2:] = 100
    assert np.array_equal(np.sign(frame_features(halves, 2)[1].reshape(2, 2, 3)), [[[0] * 3, [1] * 3]] * 2)
    assert not frame_features(np.full((3, 4, 4, 3), 7, np.uint8)).any()
