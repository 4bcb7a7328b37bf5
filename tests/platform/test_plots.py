"""Charts that stretch: where points, numbers and names stand."""

from __future__ import annotations

import math
import re

import pytest

from squall.platform.report.plots import (
    FIELD,
    MARGIN,
    TAG_GAP,
    Axis,
    Line,
    apart,
    band,
    left,
    path,
    plot,
    short,
    stairs,
    tens,
    top,
)

X, Y = Axis(1.0, 100.0, ((1.0, "1"), (10.0, "10")), logarithmic=True), Axis(0.0, 50.0, ((0.0, "0"), (25.0, "25")))


def test_points_stand_on_their_axes_and_beyond_the_ends_at_the_nearer_one() -> None:
    assert path(X, Y, [(1.0, 0.0), (10.0, 25.0), (100.0, 50.0)]) == "M0.0 1000.0L500.0 500.0L1000.0 0.0"
    assert path(X, Y, [(0.1, 60.0), (1e4, -5.0)]) == "M0.0 0.0L1000.0 1000.0"
    assert path(X, Y, [(1.0, 0.0), (10.0, math.nan), (100.0, 50.0)]) == "M0.0 1000.0M1000.0 0.0"
    assert left(X, 100.0) == pytest.approx(100 * FIELD / (FIELD + MARGIN), abs=0.01) and top(Y, 12.5) == 75.0
    assert Axis(3.0, 3.0, ()).share(3.0) == 0.0


def test_stairs_keep_a_value_until_the_next_point() -> None:
    assert stairs([(1, 0.0), (5, 0.5), (9, 1.0)]) == [(1, 0.0), (5, 0.0), (5, 0.5), (9, 0.5), (9, 1.0)]
    assert stairs([]) == []


def test_a_band_closes_between_its_lines() -> None:
    assert band(X, Y, [(1.0, 0.0), (100.0, 25.0)], [(1.0, 25.0), (100.0, 50.0)]) == (
        "M0.0 500.0L1000.0 0.0L1000.0 500.0L0.0 1000.0Z")
    assert band(X, Y, [], []) == ""


@pytest.mark.parametrize("tops", [[0.0] * 12, [100.0] * 12, [50.0, 50.0, 52.0, 90.0], [97.0, 3.0, 50.0, 49.0, 51.0, 98.0]])
def test_names_keep_their_order_and_do_not_overlap(tops: list[float]) -> None:
    places = apart(tops, TAG_GAP)
    order = sorted(range(len(tops)), key=lambda number: tops[number])
    gaps = [places[after] - places[before] for before, after in zip(order, order[1:], strict=False)]
    assert min(gaps) >= TAG_GAP - 0.02 and min(places) >= 0.0 and max(places) <= 100.01


def test_names_with_room_stay_at_their_lines_and_too_many_share_what_there_is() -> None:
    assert apart([80.0, 10.0, 40.0], 5.0) == [80.0, 10.0, 40.0]
    assert apart([50.0, 50.0], 10.0) == [45.0, 55.0]
    assert apart([10.0] * 41, 5.0) == pytest.approx([2.5 * place for place in range(41)])
    assert apart([], 5.0) == [] and apart([30.0], 5.0) == [30.0]


def test_a_plot_leads_from_the_end_of_each_line_to_its_name() -> None:
    drawn = plot("t", "x", X, Y, [Line("p0", "a", "M0 0", "a")], [("p0", "a", "50", 50.0), ("p1", "b", "49", 49.0)],
                 rules=[(10.0, "here")])
    assert [(tag.name, tag.text) for tag in drawn.tags] == [("a", "50"), ("b", "49")]
    starts = [re.match(r"M1000 ([\d.]+)L1030 ([\d.]+)", tag.leader).groups() for tag in drawn.tags]
    assert [float(start) for start, _ in starts] == [0.0, 20.0]
    assert [float(end) for _, end in starts] == [10 * tag.top for tag in drawn.tags]
    assert drawn.x_ticks == ((0.0, "1"), (left(X, 10.0), "10")) and drawn.y_ticks == ((100.0, "0"), (50.0, "25"))
    assert drawn.rules == ((left(X, 10.0), "here"),)


def test_numbers_of_logarithmic_axes() -> None:
    assert [text for _, text in tens(1.0, 300.0)] == ["1", "2", "5", "10", "20", "50", "100", "200"]
    assert [text for _, text in tens(8.0, 2e6, between=(1,))] == ["10", "100", "1 k", "10 k", "100 k", "1 M"]
    assert [short(value) for value in (0.5, 999, 1000, 12_400, 2.5e6)] == ["0.5", "999", "1 k", "12.4 k", "2.5 M"]
