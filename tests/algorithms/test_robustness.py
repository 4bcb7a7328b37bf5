"""Robustness figures against hand-computed ones, and intervals and tests against simulated truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from squall.algorithms.bootstrap import Bootstrap, effective_clusters, intervals, simultaneous_interval, student_quantile
from squall.algorithms.calibration import calibrate
from squall.algorithms.robustness import assess, contrast
from squall.algorithms.score_matrix import Condition, ScoreMatrix, average_answers, majority_meanings, nested_weights
from squall.algorithms.statistics import holm, mcnemar_exact

CONDITIONS = (Condition("clean"), Condition("fog 0.7", "fog", "weather", 0.7), Condition("fog 0.3", "fog", "weather", 0.3),
              Condition("rain 0.7", "rain", "weather", 0.7), Condition("blur 0.7", "blur", "camera", 0.7))
SCORES = np.array([
    [1, 1, 0, 1, 1],
    [1, 1, 1, 0, 1],
    [1, 0, 0, 0, 1],
    [0, 0, 1, 0, 0],
], dtype=float)
VIDEOS, TYPES = np.array(["a", "a", "b", "c"]), np.array(["count", "count", "colour", "colour"])
MEANINGS = np.array([[0, 0, 1, 0, 0], [2, 2, 2, -1, 2], [0, 1, 1, 1, 0], [-1, -1, 0, 1, 1]])


def matrix(scores: np.ndarray = SCORES, **changes: object) -> ScoreMatrix:
    return ScoreMatrix(**{"conditions": CONDITIONS, "scores": scores, "meanings": MEANINGS, "clusters": VIDEOS, "types": TYPES,
                          **changes})


@pytest.fixture(scope="module")
def coverage_benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_is_what_its_definition_gives_by_hand():
    found = assess(matrix(), resamples=200)
    summary = found.summary
    fog, rain, blur, clean = (2 / 4 + 2 / 4) / 2, 1 / 4, 3 / 4, 3 / 4
    mpc = (fog + rain + blur) / 3
    weather = (2 / 4 + 2 / 4 + 1 / 4) / 3
    expected = {"clean": clean, "mpc": mpc, "rpc": mpc / clean, "worst": rain, "relative_robustness": 1 - (clean - mpc) / clean,
                "absolute_robustness": 1 - (clean - mpc), "pvr_drop": (clean - (weather + blur) / 2) / clean,
                "flip_rate": ((1 / 3 + 2 / 3) / 2 + 2 / 3 + 0) / 3, "consistency": ((2 / 4 + 1 / 4) / 2 + 1 / 4 + 3 / 4) / 3}
    assert {name: getattr(summary, name).value for name in expected} == pytest.approx(expected, abs=1e-6)
    assert summary.worst_kind == "rain" and summary.top5_clean is None and summary.clean.n == 4
    assert [one.condition for one in found.conditions] == [one.name for one in CONDITIONS]
    assert [one.accuracy.value for one in found.conditions] == [0.75, 0.5, 0.5, 0.25, 0.75]
    assert [one.change.value for one in found.conditions] == [0.0, -0.25, -0.25, -0.5, 0.0]
    assert found.conditions[0].change.low == found.conditions[0].change.high == 0.0
    tables = (found.by_kind, found.by_family, found.by_severity, found.by_question_type)
    groups = {group.name: group.corrupted.value for table in tables for group in table}
    assert groups == pytest.approx({"fog": 0.5, "rain": 0.25, "blur": 0.75, "weather": 1.25 / 3, "camera": 0.75, "0.3": 0.5,
                                    "0.7": 0.5, "count": 6 / 8, "colour": 2 / 8}, abs=1e-6)
    assert [group.name for group in found.by_severity] == ["0.3", "0.7"]
    colour = next(group for group in found.by_question_type if group.name == "colour")
    assert (colour.clean.value, colour.change.value, colour.clean.n) == (0.5, -0.25, 2)


def test_p_values_take_each_video_as_one_coin():
    both_of_a = SCORES.copy()
    both_of_a[0, 3] = 0
    rain = assess(matrix(both_of_a), resamples=50).conditions[3]
    # Video a loses two questions, b one, c none: two heads, or two tails, of two coins, not of three.
    assert rain.p_value == pytest.approx(0.5) and rain.p_holm == 1.0
    graded = SCORES.copy()
    graded[0, 1] = 0.25
    assert [one.p_value is None for one in assess(matrix(graded), resamples=50).conditions] == [True, True, False, False, False]


def test_a_question_that_is_lost_under_one_corruption_leaves_that_pair_only():
    lost = SCORES.copy()
    lost[3, 3] = np.nan  # wrong clean and under rain
    whole, found = assess(matrix(), resamples=200), assess(matrix(lost), resamples=200)
    rain = found.conditions[3]
    assert (rain.accuracy.value, rain.accuracy.n, rain.change.n) == (pytest.approx(1 / 3, abs=1e-6), 3, 3)
    assert rain.change.value == pytest.approx(1 / 3 - 3 / 3, abs=1e-6), "against the clean answers to the same three"
    assert [found.conditions[c] for c in (0, 1, 2, 4)] == [whole.conditions[c].model_copy(update={"p_holm": one.p_holm})
                                                           for c, one in ((c, found.conditions[c]) for c in (0, 1, 2, 4))]
    mean_clean, mean = (0.75 + 1 + 0.75) / 3, (0.5 + 1 / 3 + 0.75) / 3
    assert found.summary.rpc.value == pytest.approx(mean / mean_clean, abs=1e-6)
    assert found.summary.clean.value == 0.75
    lost = SCORES.copy()
    lost[2, 0] = np.nan  # right clean, wrong under rain
    rain = assess(matrix(lost), resamples=200).conditions[3]
    assert (rain.accuracy.value, rain.accuracy.n) == (0.25, 4), "it was answered there"
    assert (rain.change.value, rain.change.n) == (pytest.approx(1 / 3 - 2 / 3, abs=1e-6), 3)
    assert (rain.flip_rate.value, rain.consistency.value) == (0.5, pytest.approx(1 / 3, abs=1e-6))


def test_what_is_not_there_is_none_and_never_nought():
    nothing = SCORES.copy()
    nothing[:, 3] = np.nan
    found = assess(matrix(nothing), resamples=100)
    rain = found.conditions[3]
    assert (rain.accuracy.value, rain.accuracy.low, rain.accuracy.n, rain.p_value) == (None, None, 0, None)
    assert found.summary.mpc.value == pytest.approx((0.5 + 0.75) / 2) and found.summary.worst_kind == "fog"
    unclean = SCORES.copy()
    unclean[:, 0] = np.nan
    summary = assess(matrix(unclean), resamples=100).summary
    assert (summary.clean.value, summary.rpc.value, summary.flip_rate.value) == (None, None, None)
    assert summary.mpc.value == pytest.approx(0.5)
    clean_alone = ScoreMatrix(CONDITIONS[:1], SCORES[:, :1], MEANINGS[:, :1], VIDEOS, TYPES)
    found = assess(clean_alone, resamples=100)
    assert found.summary.clean.value == 0.75 and found.summary.mpc.value is None and found.summary.worst_kind is None
    assert found.by_kind == () and [group.corrupted.value for group in found.by_question_type] == [None, None]
    wrong = np.zeros_like(SCORES)
    assert assess(matrix(wrong), resamples=100).summary.rpc.value is None, "nothing divided by nothing"


def test_top5_and_several_answers_to_one_clip():
    cells, values = np.array([0, 0, 0, 1, 3]), np.array([1.0, 0.0, 0.5, 1.0, 0.0])
    assert average_answers(cells, values, (2, 2)).tolist()[0] == [0.5, 1.0]
    assert np.isnan(average_answers(cells, values, (2, 2))[1, 0])
    voters, votes = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([5, 3, 3, 7, 2, -1, -1])
    assert majority_meanings(voters, votes, (2, 2)).tolist() == [[3, 7], [-1, -1]]
    summary = assess(matrix(top5=np.ones((4, 5)) * [1, 0.5, 0.5, 0.5, 0.0]), resamples=100).summary
    assert (summary.top5_clean.value, summary.top5_corrupted.value) == (1.0, pytest.approx(1 / 3, abs=1e-6))


def test_weights_are_means_of_means():
    weights = nested_weights([None, "fog", "fog", "rain", "blur"], np.array([True, True, True, True, False]))
    assert weights.tolist() == [0.0, 0.25, 0.25, 0.5, 0.0]


@pytest.mark.parametrize("videos, uneven", [(20, True), (40, False), (40, True), (100, True), (200, False)])
def test_intervals_cover_the_truth(coverage_benchmark: ModuleType, videos: int, uneven: bool):
    found = coverage_benchmark.coverage(1000, videos, per_video=3, uneven=uneven, seed=videos)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def test_the_plain_percentile_would_not(coverage_benchmark: ModuleType):
    found = coverage_benchmark.coverage(1000, 10, per_video=3, uneven=True, seed=1, plain=True)
    assert max(found.values()) < 0.92, found


def test_the_interval_of_the_worst_kind_allows_for_its_choice(coverage_benchmark: ModuleType):
    allowed, alone = coverage_benchmark.worst_coverage(150, 60, kinds=20, apart=0.0)
    assert allowed >= 0.95 and alone < 0.88


def test_where_all_videos_agree_an_interval_still_has_width():
    found = assess(ScoreMatrix(CONDITIONS[:2], np.ones((40, 2)), np.zeros((40, 2), int), np.arange(40), np.array(["x"] * 40)))
    assert found.summary.clean.value == 1.0 and found.summary.clean.high == 1.0
    assert found.summary.clean.low == pytest.approx(40 / (40 + 1.96**2), abs=1e-4)  # Wilson 1927, none of 40
    assert found.summary.flip_rate.high == pytest.approx(1.96**2 / (40 + 1.96**2), abs=1e-4)


def test_a_planted_difference_is_found_and_a_null_is_not(coverage_benchmark: ModuleType):
    rng = np.random.default_rng(0)
    right, _ = coverage_benchmark.simulate(rng, 1, 100, 5, False)
    scores = right[0].reshape(500, 5).astype(float)
    one = matrix(scores, meanings=np.zeros((500, 5), int), clusters=np.repeat(np.arange(100), 5), types=np.array(["x"] * 500))
    better = np.where(rng.random(scores.shape) < 0.2, 1.0, scores)
    better[:, 0] = scores[:, 0]
    other = ScoreMatrix(one.conditions, better, one.meanings, one.clusters, one.types)
    found = {entry.name: entry for entry in contrast(one, other)}
    assert list(found) == ["clean", "mpc", *(condition.name for condition in CONDITIONS[1:])]
    assert found["mpc"].change.low > 0.05 and found["mpc"].p_value is None
    assert found["mpc"].change.value == pytest.approx(found["mpc"].second - found["mpc"].first, abs=2e-6)
    assert all(found[condition.name].p_holm < 1e-3 for condition in CONDITIONS[1:])
    assert found["clean"].p_value == 1.0 and found["clean"].change.value == 0.0 and found["clean"].change.low < 0


def test_false_findings_are_as_many_as_promised(coverage_benchmark: ModuleType):
    found = coverage_benchmark.false_findings(150, 100, per_video=4)
    assert 0.03 <= found["by video"] <= 0.055, found
    assert found["by question"] > 0.08, "questions as coins find too much"
    assert found["any of 20"] > 0.4 and found["any of 20, Holm"] < 0.05


def test_mcnemar_by_video_is_the_usual_one_with_a_question_each_and_exact_otherwise():
    rng = np.random.default_rng(1)
    before, after = rng.random((2, 300)) < 0.5
    assert mcnemar_exact(before, after, np.arange(300)) == pytest.approx(mcnemar_exact(before, after), rel=1e-9)
    # Gains by video +2, +1, -1: of the 8 sums, as far from 0 as 2 are +-4, +-2 and +-2.
    before, after = [0, 0, 0, 1], [1, 1, 1, 0]
    assert mcnemar_exact(before, after, ["a", "a", "b", "c"]) == pytest.approx(6 / 8)


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


def test_calibration_by_hand():
    confidence, scores = np.array([0.95, 1.0, 0.25, 0.25, np.nan]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    found = calibrate(confidence, scores, np.arange(5), resamples=100)
    assert found.ece.value == pytest.approx((abs(1 - 1.95) + abs(1 - 0.5)) / 4) and found.n == 4
    assert found.brier.value == pytest.approx((0.0025 + 1 + 0.0625 + 0.5625) / 4)
    assert [(one.n, one.accuracy) for one in found.bins if one.n] == [(2, 0.5), (2, 0.5)] and found.bins[9].confidence == 0.975
    assert calibrate(np.full(3, np.nan), np.ones(3), np.arange(3)) is None


@pytest.mark.parametrize("overconfident", [0.0, 0.1])
def test_intervals_of_calibration_cover_the_truth(coverage_benchmark: ModuleType, overconfident: float):
    ece, brier = coverage_benchmark.calibration_coverage(300, 60, overconfident)
    assert ece >= 0.93 and 0.92 <= brier <= 0.98, "that of the calibration error is cautious"


def test_quantiles_and_effective_clusters():
    assert student_quantile(0.975, 4) == pytest.approx(2.7764, rel=0.01)
    assert student_quantile(0.975, 19) == pytest.approx(2.0930, rel=1e-4)
    # Normal tail at 2.0930 sqrt(20 / 19); resamples that go evenly from 0 to 1 show it.
    low, high = intervals(np.array([0.5]), np.linspace(0, 1, 10_001)[:, None], np.array([20.0]))
    assert (low[0], 1 - high[0]) == pytest.approx((0.01588, 0.01588), abs=2e-5)
    assert effective_clusters(np.array(["a", "a", "a", "b"])) == pytest.approx(1.6)
    assert effective_clusters(np.repeat(np.arange(30), 4)) == pytest.approx(30)


def test_one_chosen_of_one_has_the_usual_interval():
    figures = Bootstrap()
    figures.add(np.arange(20.0)[:, None] / 20, np.ones((20, 1)), np.ones(1))
    draws = figures.draw(500, 0)
    low, high = draws.interval()
    assert simultaneous_interval(draws.values, draws.samples, 20, 0) == (low[0], high[0])
