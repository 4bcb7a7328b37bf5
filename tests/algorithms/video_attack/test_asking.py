"""Asking a victim: every clip counts, the limit holds, and answers that are none are refused."""

from __future__ import annotations

import numpy as np
import pytest
from spot_victim import Spot, noise_clip

from squall.algorithms.video_attack.asking import Asking, Budgeted, BudgetSpent, ask_together, label_only, read_answers
from squall.platform.errors import DataError

CLIP = noise_clip()


def test_every_clip_is_counted_and_the_limit_holds() -> None:
    asked: list[int] = []

    def victim(clips: np.ndarray) -> np.ndarray:
        asked.append(len(clips))
        return Spot(CLIP)(clips)

    ask = Budgeted(victim, 4)
    ask(np.stack([CLIP] * 3))
    with pytest.raises(BudgetSpent, match="2 clips to ask about, and 1 of 4 queries left"):
        ask(np.stack([CLIP] * 2))
    ask(CLIP[None])
    assert (asked, ask.queries, ask.left) == ([3, 1], 4, 0)


def test_a_victim_that_cannot_be_reached_costs_nothing_and_its_error_passes() -> None:
    def gone(clips: np.ndarray) -> np.ndarray:
        raise ConnectionError("no victim")

    ask = Budgeted(gone, 4)
    with pytest.raises(ConnectionError, match="no victim"):
        ask(CLIP[None])
    assert ask.queries == 0


@pytest.mark.parametrize(("answer", "found"), [
    (np.array([[0.5, np.nan]]), "values that are not finite"),
    (np.array([[0.5, np.inf]]), "values that are not finite"),
    (np.array([0.5, 0.5]), r"shape \(2,\)"),
    (np.array([[0.5, 0.5]] * 2), r"shape \(2, 2\)"),
    (np.array([[1.0]]), r"shape \(1, 1\)"),
    (np.array([[2.0, 3.0]]), "are these logits"),
    (np.array([[-1.0, 2.0]]), "are these logits"),
    (None, r"shape \(\)"),
    ({"a": 1}, "dict, no array of numbers"),
])
def test_answers_that_are_no_probabilities_are_refused(answer: object, found: str) -> None:
    ask = Budgeted(lambda clips: answer, 4)
    with pytest.raises(DataError, match=f"the victim returned .*{found}.*expected finite probabilities") as caught:
        ask(CLIP[None])
    assert caught.value.reason == "bad_output"
    assert ask.queries == 1, "the victim did answer"


def test_an_answer_is_read_against_the_label() -> None:
    same, other = read_answers(np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]), 2, label=1)
    assert (same.p_label, same.margin, same.flipped) == (0.5, pytest.approx(0.2), False)
    assert (other.p_label, other.margin, other.flipped) == (0.3, pytest.approx(-0.3), True)
    assert same.log_odds == pytest.approx(0) and other.log_odds == pytest.approx(np.log(0.3 / 0.7))
    with pytest.raises(DataError, match="label 2, and the victim has 2 classes, numbered from 0"):
        read_answers(np.array([[0.5, 0.5]]), 1, label=2)


def test_log_odds_tell_confident_answers_apart() -> None:
    sure, surer, certain = read_answers(np.array([[1, 1e-7], [1, 1e-8], [1, 0]], np.float32), 3, label=0)
    assert sure.p_label == surer.p_label == 1 and surer.log_odds - sure.log_odds == pytest.approx(np.log(10), abs=1e-4)
    assert certain.log_odds == pytest.approx(20.72, abs=0.01)


def test_a_label_only_victim_tells_the_class_alone() -> None:
    assert label_only(lambda clips: np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]))(np.stack([CLIP] * 2)).tolist() == [
        [0, 1, 0], [1, 0, 0]]


def wanting(*counts: int) -> Asking[list[int]]:
    """Asks about so many clips, one request after the other, and returns how many rows it was given; takes a lost connection
    as none."""
    given = []
    for count in counts:
        try:
            given.append(len((yield np.stack([CLIP] * count))))
        except ConnectionError:
            given.append(0)
    return given


def test_clips_that_are_wanted_at_the_same_time_are_one_request() -> None:
    asked: list[int] = []

    def victim(clips: np.ndarray) -> np.ndarray:
        asked.append(len(clips))
        return Spot(CLIP)(clips)

    assert ask_together([wanting(2, 1), wanting(), wanting(1, 1, 3)], victim) == [[2, 1], [], [1, 1, 3]]
    assert asked == [3, 2, 3]


def test_everyone_is_given_the_rows_of_its_own_clips() -> None:
    def light(clip: np.ndarray) -> Asking[float]:
        rows = yield clip[None]
        return round(float(rows[0, 0]), 6)

    clips = [np.full_like(CLIP, value) for value in (0, 51, 255)]
    assert ask_together([light(clip) for clip in clips], lambda clips: np.stack(
        [clips[:, 0, 0, 0, 0] / 255, 1 - clips[:, 0, 0, 0, 0] / 255], 1)) == [0, 0.2, 1]


def test_a_failure_is_thrown_to_all_who_wait_and_passes_where_one_does_not_take_it() -> None:
    failures: list[Exception] = [ConnectionError("gone"), ValueError("broken")]

    def victim(clips: np.ndarray) -> np.ndarray:
        if failures:
            raise failures.pop(0)
        return Spot(CLIP)(clips)

    with pytest.raises(ValueError, match="broken"):
        ask_together([wanting(2, 1), wanting(1, 1)], victim)
    failures.append(ConnectionError("gone"))
    assert ask_together([wanting(2, 1), wanting(1, 1)], victim) == [[0, 1], [0, 1]]


def test_rows_that_do_not_fit_the_clips_are_refused() -> None:
    with pytest.raises(DataError, match=r"the victim returned shape \(2, 2\) for 3 clips"):
        ask_together([wanting(2), wanting(1)], lambda clips: np.full((2, 2), 0.5))
