"""Statistics against known values, analytic intervals and exhaustive counts."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from squall.algorithms.statistics import Interval, mcnemar_exact, paired_bootstrap, relative_drop, wilson_interval


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(7)
    before = rng.random(1500) < 0.60
    after = np.where(rng.random(1500) < 0.15, ~before, before)
    differences = after.astype(float) - before
    half_width = 1.959964 * differences.std() / math.sqrt(1500)
    interval = paired_bootstrap(before, after, seed=1)
    assert interval.diff == pytest.approx(differences.mean(), abs=1e-12)
    assert interval.before == pytest.approx(before.mean()) and interval.after == pytest.approx(after.mean())
    assert interval.low == pytest.approx(differences.mean() - half_width, abs=0.0012)
    assert interval.high == pytest.approx(differences.mean() + half_width, abs=0.0012)


def test_bootstrap_is_seeded_and_fast():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 1500))
    start = time.perf_counter()
    first = paired_bootstrap(before, after, seed=3)
    assert time.perf_counter() - start < 5.0
    assert paired_bootstrap(before, after, seed=3) == first
    assert paired_bootstrap(before, after, seed=4) != first


def test_clusters_widen_the_interval_by_the_design_effect():
    rng = np.random.default_rng(5)
    per_video = rng.normal(size=300)
    before, after, videos = np.zeros(1200), np.repeat(per_video, 4), np.repeat(np.arange(300), 4)
    independent = paired_bootstrap(before, after, seed=1)
    clustered = paired_bootstrap(before, after, clusters=videos, seed=1)
    ratio = (clustered.high - clustered.low) / (independent.high - independent.low)
    assert ratio == pytest.approx(2.0, rel=0.06)  # sqrt of 4 identical questions per video
    assert clustered.diff == pytest.approx(independent.diff)


def test_clusters_of_unequal_size_weigh_by_their_questions():
    interval = paired_bootstrap([0, 0, 0, 0], [1, 1, 1, 0], clusters=["a", "a", "a", "b"], resamples=2000)
    assert interval == Interval(0.0, 0.75, 0.75, 0.0, 1.0)


@pytest.mark.parametrize(
    "before, after, clusters",
    [([], [], None), ([1], [1, 0], None), ([1, 0], [1, 0], ["a"]), ([1.0, math.nan], [1, 0], None)],
)
def test_bootstrap_refuses_what_is_not_paired(before, after, clusters):
    with pytest.raises(ValueError, match="need|must"):
        paired_bootstrap(before, after, clusters)


def test_relative_drop_reproduces_the_printed_percentages():
    assert round(100 * relative_drop(0.51, 0.33), 1) == 35.3
    assert round(100 * relative_drop(0.59, 0.56), 1) == 5.1
    assert math.isnan(relative_drop(0.0, 0.0))


def test_mcnemar_counts_only_changes():
    unchanged = [1] * 50 + [0] * 50
    assert mcnemar_exact(unchanged, unchanged) == 1.0
    before, after = unchanged + [0] * 9 + [1], unchanged + [1] * 9 + [0]
    assert mcnemar_exact(before, after) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar_exact(after, before) == pytest.approx(2 * (1 + 10) / 1024)
    assert 0.0 < mcnemar_exact([0] * 3000, [1] * 900 + [0] * 2100) < 1e-200
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar_exact([0.5], [1.0])


def test_wilson_interval_matches_published_values():
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2"):
        wilson_interval(3, 2)
