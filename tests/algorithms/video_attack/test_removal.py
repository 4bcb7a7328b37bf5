"""The removal sweep: what it leaves, and in how many questions."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.video_attack.removal import removal_sweep


def sweep(size: int, needed: set[int]) -> tuple[set[int], int]:
    """What is left of `size` cells where all of `needed` have to stay, and the questions asked."""
    generator = removal_sweep(np.ones(size, np.int8), range(size))
    questions, answer = 0, None
    while True:
        try:
            candidate = generator.send(answer)
        except StopIteration as end:
            return set(np.flatnonzero(end.value).tolist()), questions
        questions += 1
        assert candidate.any(), "the clean clip is known"
        answer = needed <= set(np.flatnonzero(candidate).tolist())


@pytest.mark.parametrize("needed", [{0}, {63}, {17, 18}, {0, 31, 63}, set(range(64))])
def test_only_needed_cells_are_left(needed: set[int]) -> None:
    assert sweep(64, needed)[0] == needed


def test_few_needed_cells_cost_few_questions() -> None:
    assert sweep(64, {40})[1] <= 2 * 6
    assert sweep(64, {3, 40})[1] <= 2 * 2 * 6
    assert sweep(64, set(range(64)))[1] <= 2 * 64


def test_a_single_cell_is_needed_without_a_question() -> None:
    assert sweep(1, {0}) == ({0}, 0)


def test_no_cell_that_is_left_can_go_though_either_of_two_would_do() -> None:
    generator = removal_sweep(np.ones(8, np.int8), range(8))
    candidate = next(generator)
    try:
        while True:
            candidate = generator.send(bool(candidate[2] or candidate[5]))
    except StopIteration as end:
        assert end.value.sum() == 1 and (end.value[2] or end.value[5])
