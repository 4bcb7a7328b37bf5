"""The difficulty memory as a state machine: whatever happens, every question is accounted for and the bounds hold."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from squall.algorithms.memory import Deferred, DifficultyMemory, Fate, MemoryConfig
from squall.platform.errors import SquallError

CONFIG = MemoryConfig(size=4, recheck_every_steps=3, max_rechecks=2)


def entry(name: str, step: int = 0) -> Deferred:
    return Deferred(name, 0, "fog 0.5 seed=7", step, confidence=0.25)


class MemoryMachine(RuleBasedStateMachine):
    """Defers, rechecks in any order with any outcome, stops and goes on from its state at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = DifficultyMemory(CONFIG)
        self.under_way: list[str] = []
        self.step = self.number = 0
        self.rechecks: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()

    @rule()
    def defer(self) -> None:
        self.memory.defer(entry(f"s{self.number}", self.step))
        self.number += 1

    @rule()
    def end_step(self) -> None:
        self.step += 1
        due = [one.key for one in self.memory.take_due(self.step)]
        assert not set(due) & set(self.under_way), "handed out twice"
        if self.step % CONFIG.recheck_every_steps == 0:
            assert set(due) | set(self.under_way) == {one.key for one in self.memory}, "a regular recheck leaves nobody out"
        self.under_way += due

    @rule(fate=st.sampled_from([Fate.PROMOTED, Fate.DROPPED, Fate.KEPT, Fate.LOST]), which=st.integers(0, 9))
    def settle(self, fate: Fate, which: int) -> None:
        if not self.under_way:
            return
        key = self.under_way.pop(which % len(self.under_way))
        assert key in self.memory, "what is under way stays in the memory"
        found = self.memory.settle(key, fate, 0.5)
        self.rechecks[key] += fate is not Fate.LOST
        last = fate is Fate.KEPT and self.rechecks[key] == CONFIG.max_rechecks
        assert found is (Fate.EVICTED if last else fate)
        assert (key in self.memory) is (found in (Fate.KEPT, Fate.LOST))
        self.gone[found] += key not in self.memory

    @rule()
    def stop_and_go_on(self) -> None:
        counts = self.memory.take_counts()
        self.gone["overflowed"] += counts["overflowed"]
        self.memory = DifficultyMemory.from_state(CONFIG, json.loads(json.dumps(self.memory.state())), "state.json")
        self.memory.resume(self.under_way)

    @invariant()
    def bounds_hold_and_nobody_is_lost(self) -> None:
        counts = self.memory.take_counts()
        self.gone["overflowed"] += counts["overflowed"]
        assert len(self.memory) <= CONFIG.size
        assert all(one.rechecks < CONFIG.max_rechecks for one in self.memory)
        assert all(one.rechecks == self.rechecks[one.key] for one in self.memory)
        assert self.number == len(self.memory) + sum(self.gone.values())


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_full_memory_gives_up_the_one_looked_at_most_often_and_the_oldest_of_those() -> None:
    memory = DifficultyMemory(MemoryConfig(size=2, recheck_every_steps=10, max_rechecks=3))
    memory.defer(entry("a"))
    memory.defer(entry("b"))
    assert [one.key for one in memory.take_due(1)] == ["a@0", "b@0"], "full: those that were never looked at are due"
    memory.settle("b@0", Fate.KEPT)
    memory.settle("a@0", Fate.LOST)
    memory.defer(entry("c"))
    assert [one.key for one in memory] == ["a@0", "c@0"]
    assert memory.take_counts() == {"deferred": 3, "overflowed": 1, "kept": 1, "lost": 1}


def test_full_of_what_was_looked_at_waits_for_the_regular_recheck() -> None:
    memory = DifficultyMemory(MemoryConfig(size=1, recheck_every_steps=10, max_rechecks=3))
    memory.defer(entry("a"))
    memory.take_due(1)
    memory.settle("a@0", Fate.KEPT)
    assert memory.take_due(2) == []
    assert [one.rechecks for one in memory.take_due(10)] == [1]


def test_a_memory_of_size_0_keeps_nothing_and_counts_it() -> None:
    memory = DifficultyMemory(MemoryConfig(size=0))
    memory.defer(entry("a"))
    assert len(memory) == 0 and memory.take_due(50) == []
    assert memory.take_counts() == {"deferred": 1, "overflowed": 1}


def test_nothing_is_settled_that_is_not_under_way() -> None:
    memory = DifficultyMemory(CONFIG)
    memory.defer(entry("a"))
    with pytest.raises(ValueError, match="a@0 is not being looked at again"):
        memory.settle("a@0", Fate.KEPT)


def test_the_verdicts_confidence_is_kept_and_decides_nothing() -> None:
    memory = DifficultyMemory(MemoryConfig(size=2, recheck_every_steps=1, max_rechecks=3))
    memory.defer(entry("a"))
    memory.take_due(1)
    memory.settle("a@0", Fate.KEPT, 0.99)
    assert memory["a@0"].confidence == 0.99 and memory["a@0"].rechecks == 1


@pytest.mark.parametrize(("damage", "message"), [
    (lambda state: state[0].pop("epoch"), "entry 0 of the difficulty memory is damaged: expected the keys sample_id, epoch"),
    (lambda state: state[0].update(rechecks="one"), "entry 0 of the difficulty memory is damaged: rechecks = 'one'"),
    (lambda state: state.append("x"), "entry 1 of the difficulty memory is damaged"),
    (lambda state: state.extend(state * 4), "5 entries in the difficulty memory, and difficulty.memory.size is 4"),
])
def test_a_damaged_state_is_refused_with_its_place(damage, message) -> None:
    memory = DifficultyMemory(CONFIG)
    memory.defer(entry("a"))
    state = memory.state()
    damage(state)
    with pytest.raises(SquallError, match=f"step-000005/state.json: {message}"):
        DifficultyMemory.from_state(CONFIG, state, "step-000005/state.json")
