"""The page of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from squall.platform.report.sweep import Trial, curves, parallel_axes, strengths, write_sweep_page

TRIALS = [
    Trial("s-2", {"lr": 1e-4, "kind": "fog"}, 0.7, "finished", [(4, 0.6), (8, 0.7)], report="trials/s-2/report.html"),
    Trial("s-0", {"lr": 1e-6, "kind": "rain"}, 0.65, "finished", [(4, 0.62), (8, 0.65)]),
    Trial("s-1", {"lr": 1e-5, "kind": "fog"}, 0.5, "pruned", [(4, 0.5)]),
    Trial("s-3", {"lr": 1e-5, "kind": "<b>"}, None, "failed", error="no <room>"),
]


def test_axes_place_numbers_by_size_and_words_apart() -> None:
    rate, kind, metric = parallel_axes(TRIALS, ["lr", "kind"], "accuracy", {"lr"})
    top, bottom = rate.places["s-2"], rate.places["s-0"]
    assert top < bottom and rate.places["s-1"] == pytest.approx((top + bottom) / 2)
    assert kind.places["s-2"] == kind.places["s-1"] != kind.places["s-0"]
    assert "s-3" not in metric.places and metric.x > kind.x > rate.x


def test_the_page_names_the_best_and_escapes_what_it_shows(tmp_path: Path) -> None:
    page = write_sweep_page(tmp_path / "sweep.html", title="s", metric="accuracy", mode="max", trials=TRIALS,
                            logarithmic=["lr"], facts=[("job", "squall train tgrpo")], command="squall tune s.yaml").read_text()
    assert '<tr class="best"><td><a href="trials/s-2/report.html">s-2</a>' in page and page.count('class="best"') == 3
    assert "no &lt;room&gt;" in page and "<b>" not in page.replace("<b>0", "").replace("<b>f", "")
    assert "measure it again" in page


def test_a_page_of_a_sweep_that_has_just_begun_can_be_written(tmp_path: Path) -> None:
    page = write_sweep_page(tmp_path / "sweep.html", title="s", metric="accuracy", mode="max", trials=[], logarithmic=["lr"],
                            facts=[], command="squall tune s.yaml").read_text()
    assert "no result yet" in page and "<svg" not in page


def test_better_trials_are_drawn_more_strongly() -> None:
    assert list(strengths(TRIALS).values()) == [0.9, 0.68, 0.47, 0.25] and strengths(TRIALS[:1]) == {"s-2": 0.9}


def test_curves_need_two_points() -> None:
    assert curves(TRIALS[3:]) is None and len(curves(TRIALS).paths) == 3
