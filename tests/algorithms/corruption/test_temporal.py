"""Frames that are lost or moved, and tokens that are taken away: which, how many, and when."""

from __future__ import annotations

import numpy as np
import pytest
from clips import still

from squall.algorithms.corruption import frame_map, make_spec, render, render_with_masks, shuffle_frames, token_mask
from squall.algorithms.corruption.mask import RUNS, STRIDE


def shown(name: str, severity: float = 0.5, seed: int = 1, count: int = 16, **parameters: float):
    return frame_map(make_spec(name, severity, seed, **parameters), count)


@pytest.mark.parametrize("kind", ["random_drop", "segment_drop", "keep_k"])
def test_the_three_ways_to_lose_the_same_frames(kind):
    for seed in range(5):
        filled, cut, spliced = (shown(f"{kind}{end}", seed=seed, fraction=0.375) for end in ("", "_cut", "_splice"))
        kept = filled.source[filled.source >= 0]
        assert len(kept) == 10 and len(filled.source) == 16 and np.array_equal(filled.source[kept], kept)
        assert np.array_equal(cut.source, kept) and np.array_equal(cut.times, kept)
        assert np.array_equal(spliced.source, kept) and np.array_equal(spliced.times, np.arange(10))


def test_lost_frames_are_black_or_of_the_given_shade():
    frames = still(16, 8, 8, 99)
    for shade in (0, 128):
        output = render(frames, make_spec("random_drop", 0.6, 2, fraction=0.25, shade=shade))
        lost = (output == shade).all(axis=(1, 2, 3))
        assert lost.sum() == 4 and (output[~lost] == 99).all()


def test_segments_are_runs():
    lost = shown("segment_drop", count=64, fraction=0.125, run_frames=4).source < 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]])))
    assert lost.sum() == 8 and set(edges[1::2] - edges[::2]) <= {4, 8}


def test_keep_k_is_even():
    for seed in range(4):
        kept = shown("keep_k_cut", seed=seed, k=4).source
        assert len(kept) == 4 and set(np.diff(kept)) == {4}
    assert len(shown("keep_k_cut", k=100).source) == 16


def test_freeze_jumps_and_stall_is_late():
    frozen, stalled = shown("freeze", fraction=0.5), shown("stall", fraction=0.5)
    run = np.flatnonzero(np.diff(frozen.source) == 0) + 1
    assert len(run) == 8 and np.array_equal(run, np.arange(run[0], run[0] + 8))
    after = np.arange(run[-1] + 1, 16)
    assert np.array_equal(frozen.source[after], after) and np.array_equal(stalled.source[after], after - 8)
    assert np.array_equal(frozen.source[: run[-1] + 1], stalled.source[: run[-1] + 1])


def test_a_shuffle_moves_a_share_of_the_frames_among_themselves():
    few, all_ = shown("shuffle", fraction=0.25).source, shown("shuffle", fraction=1.0).source
    assert sorted(few) == sorted(all_) == list(range(16))
    assert 2 <= (few != np.arange(16)).sum() <= 4 < (all_ != np.arange(16)).sum()


def test_lost_frames_are_marked():
    rendered = render_with_masks(still(16, 4, 4, 50), make_spec("segment_drop", 0.5, 1, fraction=0.25))
    assert (rendered.source == -1).sum() == 4
    assert np.array_equal(rendered.where.all(axis=(1, 2)), rendered.source == -1)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_masks_take_their_share(share):
    frames = still(4, 112, 140, 200)
    for name, tolerance in (("mask_pixels", 0.01), ("mask_blocks", 0.02), ("mask_tokens", 0.05)):
        hidden = render_with_masks(frames, make_spec(name, 0.5, 3, share=share)).where
        assert abs(hidden.mean() - share) < tolerance
        assert name == "mask_tokens" or not np.array_equal(hidden[0], hidden[1])


def test_tokens_are_whole_patches_over_whole_tubelets():
    hidden = render_with_masks(still(4, 112, 140, 200), make_spec("mask_tokens", 0.5, 3, share=0.5)).where
    patches = hidden.reshape(2, 2, 4, 28, 5, 28)
    assert np.array_equal(patches.all(axis=(1, 3, 5)), patches.any(axis=(1, 3, 5)))
    assert not hidden[0, :28, :28].any()  # the first token stays


def test_token_masks_for_embeddings():
    anywhere, runs, stride = (token_mask(640, 0.3, 1, pattern) for pattern in (0, RUNS, STRIDE))
    assert not any(mask[0] for mask in (anywhere, runs, stride))
    assert abs(anywhere.mean() - 0.3) < 0.01 and abs(runs.mean() - 0.3) < 0.03
    assert np.flatnonzero(stride).tolist() == list(range(3, 640, 3))  # every int(1 / 0.3)-th
    edges = np.flatnonzero(np.diff(runs.astype(int)))
    assert all((edge + 1) % 16 == 0 for edge in edges if edge > 0)
    assert np.array_equal(anywhere, token_mask(640, 0.3, 1)) and not np.array_equal(anywhere, token_mask(640, 0.3, 2))
    assert token_mask(640, 0.6, 1)[anywhere].all()  # a larger share takes the same ones and more


def test_shuffle_frames_is_never_the_identity():
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3)
    orders = []
    for seed in range(300):
        shuffled, permutation = shuffle_frames(frames, seed)
        assert np.array_equal(shuffled, frames[permutation])
        assert np.array_equal(permutation, shuffle_frames(frames, seed)[1])
        orders.append(tuple(permutation.tolist()))
    counts = {order: orders.count(order) for order in set(orders)}
    assert (0, 1, 2) not in counts
    assert len(counts) == 5 and min(counts.values()) > 35  # 60 expected of each
    single, permutation = shuffle_frames(frames[:1], 0)
    assert np.array_equal(single, frames[:1]) and permutation.tolist() == [0]
