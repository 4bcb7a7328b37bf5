"""The sign-flip test against McNemar's, against all signs counted one by one, and against itself."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest

from squall.algorithms import sign_flips
from squall.algorithms.sign_flips import sign_flip
from squall.algorithms.statistics import mcnemar_exact


def test_single_answers_are_the_exact_mcnemar_test() -> None:
    before, after = [1] * 5 + [0] * 30, [0] * 5 + [1] * 12 + [0] * 18
    assert sign_flip(np.subtract(after, before)) == pytest.approx(mcnemar_exact(before, after), rel=1e-12)


@pytest.mark.parametrize("scale", [1, 7, 0.5])
def test_whole_numbers_and_their_multiples_agree_with_all_signs_counted(scale: float) -> None:
    values = np.array([3, -1, 8, 5, 0, -2, 13, 4, 4])
    sums = [abs(np.dot(signs, values[values != 0])) for signs in product((-1, 1), repeat=8)]
    exact = np.mean([total >= abs(values.sum()) for total in sums])
    assert sign_flip(scale * values) == pytest.approx(exact, abs=0 if scale != 0.5 else 0.004)


def test_drawn_signs_come_near_to_the_exact_chance_and_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).integers(-30, 60, 40)
    exact = sign_flip(values)
    monkeypatch.setattr(sign_flips, "EXACT_STEPS", 0)
    assert sign_flip(values) == sign_flip(values) != exact
    assert sign_flip(values) == pytest.approx(exact, rel=0.1)
    assert sign_flip(np.full(60, 5.5), draws=1000) == pytest.approx(1 / 1001), "never 0"


def test_no_difference_is_no_evidence_and_a_thousand_clips_take_no_time() -> None:
    assert sign_flip([0, 0, 0]) == 1.0 and sign_flip([4]) == 1.0
    started = time.perf_counter()
    assert 0 < sign_flip(np.random.default_rng(0).integers(-900, 990, 1000)) <= 1
    assert time.perf_counter() - started < 10


def test_chance_alone_is_rejected_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    found = [sign_flip(rng.integers(0, 50, 30) - rng.integers(0, 50, 30)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.08


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1, 2]]])
def test_what_is_no_list_of_differences_is_refused(values: list) -> None:
    with pytest.raises(ValueError, match="finite differences of shape"):
        sign_flip(values)
