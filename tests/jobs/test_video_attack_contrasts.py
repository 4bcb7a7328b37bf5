"""Which attacks are compared, and when training is paid for."""

from __future__ import annotations

from attacked_clip_cards import make_card

from squall.jobs.video_attack_contrasts import break_even, contrast_pairs


def test_break_even_is_where_training_is_paid_for() -> None:
    assert [break_even(-10.0, 95, 0), break_even(-10.0, 95, 200), break_even(-10.0, 0, 0)] == [10, 0, 0]
    assert [break_even(0.0, 95, 0), break_even(3.0, 95, 0), break_even(None, 95, 0)] == [None, None, None]


def test_pairs_follow_the_order_of_the_results_and_no_attack_meets_itself() -> None:
    results = make_card(("pair", "temporal-alone", "random", "greedy"), 20).results
    assert contrast_pairs(results, "random") == [
        ("pair", "temporal-alone"), ("pair", "random"), ("pair", "greedy"), ("temporal-alone", "random")]
    assert contrast_pairs(results, None) == [("pair", "temporal-alone"), ("pair", "random"), ("pair", "greedy")]
    assert contrast_pairs(results[2:], "random") == [], "without a learned attack there is nothing to show"
