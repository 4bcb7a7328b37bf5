"""A search counts, keeps the best attempt and ends at the first that fools."""

from __future__ import annotations

import numpy as np
import pytest

from squall.algorithms.video_attack.asking import BudgetSpent
from squall.algorithms.video_attack.controls.search import Fooled, LabelsAlone, Search
from squall.platform.errors import DataError


class Dial:
    """Says of a clip of one value v that it is of class 0 with probability v / 100."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        values = clips[:, 0, 0, 0, 0]
        self.batches.append(values.tolist())
        return np.stack([values / 100, 1 - values / 100], axis=1)


def searching(ask, limit: int = 10, label: int = 0, graded: bool = True) -> Search[int]:
    return Search(ask, label, limit, 90, lambda value: np.full((1, 1, 1, 3), value, np.uint8), graded)


def test_answers_come_as_probabilities_and_margins_and_leave_a_trace() -> None:
    search = searching(Dial())
    probabilities, margins = search.ask([90, 60, 75])
    assert probabilities == pytest.approx([0.9, 0.6, 0.75]) and margins == pytest.approx(np.log([9, 1.5, 3]))
    assert search.trace == [(1, 0.9), (2, 0.6), (3, 0.75)] and search.queries == 3 and search.left == 7
    assert search.best == 60 and not search.fooled and search.progress == 0.3


def test_the_first_that_fools_ends_the_hunt_and_its_batch_counts_whole() -> None:
    dial = Dial()
    search = searching(dial)
    search.ask([90])
    with pytest.raises(Fooled):
        search.ask(iter([80, 45, 20, 85, 10]), at_once=4)
    assert dial.batches == [[90], [80, 45, 20, 85]]
    assert search.best == 45 and search.fooled and search.queries == 5 and search.clip[0, 0, 0, 0] == 45


def test_a_budget_is_spent_to_the_last_clip_and_not_beyond() -> None:
    dial = Dial()
    search = searching(dial, limit=5)
    with pytest.raises(BudgetSpent):
        search.ask([90, 80, 70, 60, 70, 55], at_once=3)
    assert dial.batches == [[90, 80, 70], [60, 70]] and search.queries == 5 and search.best == 60


def test_a_victim_that_errs_on_the_clean_clip_is_not_fooled() -> None:
    search = searching(Dial(), label=1)
    with pytest.raises(Fooled):
        search.ask([90])
    assert not search.fooled and search.queries == 1


def test_labels_alone_are_noticed_at_the_second_clip_that_does_not_fool() -> None:
    def labels(clips: np.ndarray) -> np.ndarray:
        return np.eye(2)[np.where(clips[:, 0, 0, 0, 0] > 50, 0, 1)]

    search = searching(labels)
    search.ask([90])
    with pytest.raises(LabelsAlone):
        search.ask([80])
    assert searching(labels, graded=False).ask([90, 80, 70])[0].tolist() == [1, 1, 1]


def test_one_answer_that_is_sure_does_not_make_a_victim_of_labels() -> None:
    search = searching(Dial())
    assert np.isfinite(search.ask([100, 99, 100, 100])[1]).all()


def test_a_smaller_attempt_that_still_fools_takes_the_place_of_the_best() -> None:
    search = searching(Dial())
    with pytest.raises(Fooled):
        search.ask([90, 20])
    assert not search.still_fools(70) and search.best == 20
    assert search.still_fools(40) and search.best == 40 and search.queries == 4


def test_a_label_that_the_victim_does_not_know_is_said() -> None:
    with pytest.raises(DataError, match="label 5, and the victim has 2 classes"):
        searching(Dial(), label=5).ask([90])
