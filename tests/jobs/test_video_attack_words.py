"""What a comparison is called."""

from __future__ import annotations

import pytest

from squall.jobs.video_attack_words import short_sentence, verdict
from squall.platform.video_attack_card import Figure, VideoContrast


def contrast(success: float, p_success: float, queries: float, p_queries: float, pays: int | None = None) -> VideoContrast:
    def figure(mean: float) -> Figure:
        return Figure(mean=mean, low=mean - 1, high=mean + 1)

    return VideoContrast(first="pair", second="nes", success=figure(success), queries=figure(queries), p_success=p_success,
                         p_queries=p_queries, break_even_clips=pays)


@pytest.mark.parametrize(("given", "words"), [
    ((0.1, 0.01, 0.0, 1.0), "pair beats nes"),
    ((0.0, 1.0, -5.0, 0.04), "pair beats nes"),
    ((0.1, 0.06, -5.0, 0.05), "pair does not beat nes, these clips do not tell them apart"),
    ((-0.1, 0.01, -1.0, 0.9), "pair does not beat nes, it is worse"),
    ((0.0, 1.0, 5.0, 0.001), "pair does not beat nes, it is worse"),
    ((0.1, 0.01, 5.0, 0.01), "pair and nes each are better in one thing")])
def test_better_is_beyond_chance_in_one_figure_and_worse_in_none(given: tuple[float, ...], words: str) -> None:
    assert verdict(contrast(*given)) == words


def test_training_is_said_to_be_paid_for_where_the_saving_is_no_chance() -> None:
    assert short_sentence(contrast(0.02, 0.4, -5.0, 0.0001, 1234)) == (
        "pair beats nes: +2.0 points [-98.0, +102.0] fooled, p = 0.400; -5.0 [-6.0, -4.0] queries a clip, p < 0.001; training "
        "is paid for after 1,234 clips")
    assert short_sentence(contrast(0.02, 0.4, -5.0, 0.3, 1234)).endswith("queries a clip, p = 0.300")
