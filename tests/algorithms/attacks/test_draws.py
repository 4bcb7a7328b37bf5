"""Streams of random numbers."""

from __future__ import annotations

import torch

from squall.algorithms.attacks.draws import Draws, ReplayDraws


def test_an_image_s_stream_is_its_own() -> None:
    together, alone = Draws([5, 6, 7]), Draws([6])
    first = together.uniform(torch.tensor([0, 1, 2]), 2, 3)
    second = together.normal(torch.tensor([1]), 4)
    assert first.shape == (3, 2, 3) and 0 <= first.min() and first.max() < 1
    assert torch.equal(alone.uniform(torch.tensor([0]), 2, 3), first[1:2])
    assert torch.equal(alone.normal(torch.tensor([0]), 4), second)
    assert together.uniform(torch.tensor([], dtype=torch.int64), 2).shape == (0, 2)


def test_a_replay_repeats_the_global_stream() -> None:
    draws = ReplayDraws(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.rand(2, 3, 4), torch.randn(2, 20), torch.rand(1)
    rows = torch.arange(2)
    assert torch.equal(draws.uniform(rows, 3, 4), expected[0])
    assert torch.equal(draws.normal(rows, 20), expected[1])
    assert torch.equal(draws.uniform(rows, 1, shared=True), expected[2].expand(2, 1))
