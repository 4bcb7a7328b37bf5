"""Figures over clips: what counts, what an interval rests on, and what is not known."""

from __future__ import annotations

import numpy as np
import pytest

from squall.jobs.video_attack_figures import UNKNOWN, ClipFigures
from squall.platform.video_attack_card import Figure


def figure(values: np.ndarray, counted: np.ndarray, span: tuple[float, float]) -> Figure:
    figures = ClipFigures()
    figures.add("one", values, counted, span)
    return figures.draw()["one"]


def test_each_clip_counts_once_however_many_of_its_seeds_do() -> None:
    values = np.array([[2.0, 8.0, 6.0, 99.0], [4.0, 99.0, 6.0, 99.0]])
    counted = np.array([[True, True, True, False], [True, False, True, False]])
    found = figure(values, counted, (0, 100))
    assert found.mean == pytest.approx((3 + 8 + 6) / 3) and found.seeds == (pytest.approx(16 / 3), 5.0)
    assert 3 <= found.low < found.mean < found.high <= 8


def test_equal_clips_leave_room_for_others_as_far_as_their_span_goes() -> None:
    found = figure(np.full((1, 40), 300.0), np.ones((1, 40), bool), (0, 300))
    assert found.mean == found.high == 300 and 300 * (1 - 3.9 / 40) < found.low < 300 * (1 - 3.4 / 40)


def test_one_clip_has_no_interval_and_none_no_figure() -> None:
    one = figure(np.array([[3.0, 9.0]]), np.array([[True, False]]), (0, 10))
    assert (one.mean, one.low, one.high) == (3.0, None, None)
    assert figure(np.array([[3.0, 9.0]]), np.zeros((1, 2), bool), (0, 10)) == UNKNOWN.model_copy(update={"seeds": (None,)})
    figures = ClipFigures()
    figures.add("nothing", np.ones((1, 5)), np.zeros((1, 5), bool), (0, 1))
    figures.add("all", np.arange(5.0)[None] / 5, np.ones((1, 5), bool), (0, 1))
    drawn = figures.draw()
    assert drawn["nothing"].mean is None and drawn["all"].mean == pytest.approx(0.4)
    assert figure(np.zeros((0, 5)), np.zeros((0, 5), bool), (0, 1)).mean is None, "no seed at all"


def test_a_ratio_is_of_sums_over_clips_and_one_with_nothing_below_does_not_count() -> None:
    figures = ClipFigures()
    figures.add_ratio("ratio", np.array([2.0, 1.0, 6.0, 0.0]), np.array([1.0, 1.0, 2.0, 0.0]), (0, 4), (2.0, 2.5))
    figures.add_ratio("none", np.zeros(4), np.zeros(4), (0, 1))
    drawn = figures.draw()
    assert drawn["ratio"].mean == pytest.approx(9 / 4) and drawn["ratio"].seeds == (2.0, 2.5)
    assert 1.0 <= drawn["ratio"].low < 9 / 4 < drawn["ratio"].high <= 3.0, "a clip's own ratio bounds it"
    assert drawn["none"] == UNKNOWN
