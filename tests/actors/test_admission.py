"""Admission: never more under way than staleness allows, steps in order whatever the timing, nothing twice."""

from __future__ import annotations

import random

import pytest

from squall.actors.admission import AdmissionQueue


def simulate(staleness: int, seed: int, steps: int = 30, per_step: int = 4, limit: int = 100) -> list[list[tuple[int, int]]]:
    """Run with workers of random speed; two positions in five are useless. Returns (position, staleness) by step."""
    rng = random.Random(seed)
    queue, running, learning = AdmissionQueue(per_step, staleness, limit, steps=steps), {}, 0
    made, step = [], 0
    while step < steps:
        while (position := queue.launch(learning > 0)) is not None:
            running[position] = step
        assert len(running) <= (staleness + 1) * per_step
        if running:
            position = rng.choice(sorted(running))
            queue.settle(position, position % 5 > 1, running.pop(position))
        if learning:
            learning -= rng.random() < 0.3
            if not learning:
                step += 1
        elif (batch := queue.take()) is not None:
            made.append([(settled.position, step - settled.content) for settled in batch if settled.useful])
            learning = 1
    return made


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_steps_are_the_useful_groups_in_order_and_none_is_too_old(staleness: int) -> None:
    for seed in range(20):
        steps = simulate(staleness, seed)
        positions = [position for step in steps for position, _ in step]
        assert positions == [n for n in range(1000) if n % 5 > 1][:len(positions)]
        assert all(len(step) == 4 for step in steps)
        ages = [age for step in steps for _, age in step]
        assert max(ages) <= staleness and min(ages) >= 0
    assert staleness == 0 or max(ages) == staleness


def test_synchronous_steps_sample_nothing_beyond_what_they_need() -> None:
    queue, useful = AdmissionQueue(2, 0, 10, steps=9), {0: False, 1: True, 2: False, 3: True, 4: True}
    assert [queue.launch(False), queue.launch(False), queue.launch(False)] == [0, 1, None]
    queue.settle(1, useful[1], "b")
    assert queue.launch(False) is None
    queue.settle(0, useful[0], "a")
    assert queue.launch(False) == 2
    queue.settle(2, useful[2], "c")
    assert queue.take() is None
    assert queue.launch(False) == 3
    queue.settle(3, useful[3], "d")
    assert [settled.content for settled in queue.take()] == ["a", "b", "c", "d"]
    assert queue.taken == 4 and queue.launch(True) is None and queue.launch(False) == 4
    assert list(queue.pending) == [4]


def test_a_step_that_finds_too_few_useful_groups_takes_what_there_is() -> None:
    queue = AdmissionQueue(3, 0, 5, steps=9)
    for position in range(5):
        assert queue.launch(False) == position
        queue.settle(position, position == 2, None)
    assert queue.launch(False) is None
    assert [settled.useful for settled in queue.take()] == [False, False, True, False, False]


def test_nothing_settles_twice_or_unasked() -> None:
    queue = AdmissionQueue(1, 0, 5, steps=9, cursor=7)
    assert queue.launch(False) == 7
    queue.settle(7, True, None)
    for position in (7, 8, 3):
        with pytest.raises(ValueError, match=f"position {position} is not under way"):
            queue.settle(position, True, None)


def test_nothing_is_launched_for_steps_that_will_not_be() -> None:
    queue = AdmissionQueue(2, 2, 10, steps=1)
    assert [queue.launch(False) for _ in range(3)] == [0, 1, None]
    queue.settle(0, True, None)
    queue.settle(1, True, None)
    assert len(queue.take()) == 2 and queue.launch(False) is None
