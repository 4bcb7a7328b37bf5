"""What is asked at which position, and that a run which stops in the middle of rechecks goes on exactly where it was."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

from squall.algorithms.difficulty import Assessment, Decision, Difficulty
from squall.algorithms.memory import MemoryConfig
from squall.jobs.agenda import Agenda
from squall.jobs.rollout_stream import plan_group
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.config import load_config
from squall.platform.errors import SquallError
from squall.platform.records import Branch, MediaType, ProblemType, VideoSample

MEMORY = MemoryConfig(size=5, recheck_every_steps=2, max_rechecks=2)
HARD = Assessment(Difficulty.DIFFICULT, 0.3)


def samples(count: int = 7) -> list[VideoSample]:
    return [VideoSample(f"s{i}", f"{i}.mp4", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "A") for i in range(count)]


def config(*overrides: str) -> TGRPOJobConfig:
    return load_config(TGRPOJobConfig, "@demo", ["difficulty.reading=answers", *overrides])


def agenda(state: dict | None = None, memory: MemoryConfig = MEMORY, **overrides: object) -> Agenda:
    return Agenda(samples(), 0, partial(plan_group, config()), memory, state or {}, "step-000004/state.json")


def test_without_difficult_questions_it_is_the_seeded_order() -> None:
    plans = [agenda().plan(0) for _ in range(2)]
    assert plans[0] == plans[1]
    one = agenda()
    ids = [one.plan(position).sample.id for position in range(14)]
    assert set(ids[:7]) == set(ids[7:]) == {f"s{i}" for i in range(7)} and ids[:7] != ids[7:]


def test_a_difficult_question_comes_back_with_the_same_corruption_and_another_sampling_seed() -> None:
    one = agenda()
    first = one.plan(0)
    one.consume(0, HARD, Decision.DEFER, "deferred", 0)
    one.end_step(1)
    assert one.plan(1).sample.id != first.sample.id, "not due yet"
    one.consume(1, None, Decision.TRAIN, None, 1)
    one.end_step(2)
    again = one.plan(2)
    assert (again.sample, again.corruption, again.branches) == (first.sample, first.corruption, first.branches)
    assert again.group_id == f"{first.group_id}~1" and again.sampling.seed != first.sampling.seed
    one.consume(2, HARD, Decision.DEFER, "deferred", 2)
    one.end_step(4)
    assert one.plan(3).group_id == f"{first.group_id}~2"
    one.consume(3, HARD, Decision.DEFER, "deferred", 4)
    assert len(one.memory) == 0 and one.memory.take_counts() == {"deferred": 1, "kept": 1, "evicted": 1}


@pytest.mark.parametrize(("reason", "left"), [("infrastructure", 1), ("judge_timeout", 1), ("missing_media", 0)])
def test_a_recheck_that_fails_keeps_the_question_unless_it_can_never_be_asked(reason: str, left: int) -> None:
    one = agenda()
    one.plan(0)
    one.consume(0, HARD, Decision.DEFER, "deferred", 0)
    one.end_step(2)
    one.plan(1)
    one.consume(1, None, None, reason, 2)
    assert len(one.memory) == left and all(entry.rechecks == 0 for entry in one.memory)


class Loop:
    """Steps of `size` positions with outcomes drawn by what is asked, launched `ahead` positions ahead."""

    def __init__(self, state: dict | None = None, ahead: int = 3) -> None:
        self.agenda = agenda(state)
        self.next = self.taken = (state or {}).get("cursor", 0)
        self.step, self.ahead = (state or {}).get("step", 0), ahead
        self.asked: list[str] = []
        self.plans: dict[int, str] = {}

    def launch(self) -> None:
        while self.next < self.taken + 4 + self.ahead:
            self.plans[self.next] = self.agenda.plan(self.next).group_id
            self.next += 1

    def run_step(self) -> None:
        self.launch()
        for position in range(self.taken, self.taken + 4):
            name = self.plans.pop(position)
            self.asked.append(name)
            draw = np.random.default_rng(list(name.encode())).random()
            decision = Decision.DEFER if draw < 0.5 else Decision.TRAIN if draw < 0.9 else Decision.DISCARD
            self.agenda.consume(position, Assessment(Difficulty.INFORMATIVE, draw), decision, None, self.step)
        self.taken += 4
        self.step += 1
        self.agenda.end_step(self.step)

    def state(self) -> dict:
        self.launch()
        return json.loads(json.dumps({"cursor": self.taken, "step": self.step, **self.agenda.state()}))


def test_a_run_that_stops_at_any_step_asks_the_same_questions_as_one_that_does_not() -> None:
    whole = Loop()
    states = []
    for _ in range(12):
        states.append(whole.state())
        whole.run_step()
    assert any("~2" in name for name in whole.asked) and any(isinstance(item, str) for s in states for item in s["ahead"])
    for stopped, state in enumerate(states):
        rest = Loop(state)
        for _ in range(12 - stopped):
            rest.run_step()
        assert rest.asked == whole.asked[4 * stopped:]
        assert rest.agenda.state() == whole.agenda.state()
    assert max(Counter(whole.asked).values()) == 1, "nothing is counted twice"


def test_a_memory_that_does_not_fit_the_manifest_is_refused() -> None:
    one = agenda()
    one.plan(0)
    one.consume(0, HARD, Decision.DEFER, "deferred", 0)
    state = one.state()
    state["memory"][0]["sample_id"] = "gone"
    with pytest.raises(SquallError, match="step-000004/state.json: the difficulty memory holds sample gone, which is not in"):
        agenda(state)


def test_an_old_checkpoint_without_agenda_goes_on_at_its_cursor() -> None:
    whole = agenda()
    plans = [whole.plan(position) for position in range(6)]
    assert agenda({"cursor": 5}).plan(5) == plans[5]


def test_clean_training_shuffles_the_clean_clip_beside_a_corrupted_reference() -> None:
    plan = plan_group(config("tgrpo.optimise=clean", "tgrpo.corrupted_samples=4"), samples()[0], 0)
    assert plan.branches == {Branch.CLEAN: 8, Branch.CORRUPTED: 4, Branch.SHUFFLED: 4}
    assert plan.corruption is not None and plan.shuffled_from is Branch.CLEAN
