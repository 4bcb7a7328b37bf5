"""What a training run asks, in one endless order: new questions, and difficult ones that are looked at again.

Positions are handed out one after the other. Whatever comes of them takes effect when a step consumes them, in their order: the
memory and the order follow from what was consumed, and a run that stops goes on exactly where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squall.actors.groups import GroupPlan
from squall.algorithms.corruption import parse_spec
from squall.algorithms.difficulty import Assessment, Decision
from squall.algorithms.memory import Deferred, DifficultyMemory, Fate, MemoryConfig
from squall.platform.errors import SquallError
from squall.platform.manifest import epoch_order
from squall.platform.records import CorruptionSpec, VideoSample

PASSING = ("infrastructure", "task_error", "judge_failed", "judge_timeout", "judge_unparsed")
"""Reasons for which a question could not be asked that may be gone the next time."""
FATES = {Decision.TRAIN: Fate.PROMOTED, Decision.DISCARD: Fate.DROPPED, Decision.DEFER: Fate.KEPT}

Planner = Callable[[VideoSample, int, Deferred | None], GroupPlan]
"""Plans a question of an epoch; for one out of the memory with what is known of it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What stands at a position: the number of a new question, or the key of a deferred one, as JSON has them."""

    item: int | str
    plan: GroupPlan


class Agenda:
    """Hands out plans by position, counted from where the run began, and keeps the memory of difficult questions."""

    def __init__(self, samples: Sequence[VideoSample], seed: int, plan: Planner, memory: MemoryConfig,
                 state: Mapping[str, Any], where: str) -> None:
        """`state` is what `state` returned when the checkpoint was written that the run goes on from, `where` its name.

        Raises:
            SquallError: the stored memory is damaged, or names a question that the manifest does not have.
        """
        self._samples, self._seed, self._plan = samples, seed, plan
        self.memory = DifficultyMemory.from_state(memory, state.get("memory", ()), where)
        self._by_id = {sample.id: sample for sample in samples}
        for entry in self.memory:
            if entry.sample_id not in self._by_id:
                raise SquallError(f"{where}: the difficulty memory holds sample {entry.sample_id}, which is not in data.train")
        self._question: int = state.get("question", state.get("cursor", 0))
        self._ahead: deque[int | str] = deque(state.get("ahead", ()))
        self.memory.resume([item for item in self._ahead if isinstance(item, str)])
        self._places: dict[int, _Place] = {}
        self._epochs: dict[int, list[int]] = {}

    def plan(self, position: int) -> GroupPlan:
        """What to sample at the next position; each is asked for once, in order."""
        item = self._ahead.popleft() if self._ahead else self._next_question()
        plan = self._plan_of(item)
        self._places[position] = _Place(item, plan)
        return plan

    def consume(self, position: int, assessment: Assessment | None, decision: Decision | None, reason: str | None,
                step: int) -> None:
        """Say what came of a position, in order of positions, when `step` steps were done.

        Args:
            decision: None where the question could not be asked, for `reason`.
        """
        place = self._places.pop(position)
        confidence = assessment.confidence if assessment else 0.0
        if isinstance(place.item, int):
            if decision is Decision.DEFER:
                sample, epoch = self._at(place.item)
                spec = place.plan.corruption
                self.memory.defer(Deferred(sample.id, epoch, "" if spec is None else str(spec), step, confidence=confidence))
        elif decision is not None:
            self.memory.settle(place.item, FATES[decision], confidence)
        elif reason in PASSING:
            self.memory.settle(place.item, Fate.LOST)
        else:
            self.memory.give_up(place.item)

    def end_step(self, step: int) -> None:
        """Put what is due after `step` steps before the next new question."""
        self._ahead.extend(entry.key for entry in self.memory.take_due(step))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON: what was under way is asked again, first."""
        under_way = [self._places[position] for position in sorted(self._places)]
        return {"question": self._question, "ahead": [*(place.item for place in under_way), *self._ahead],
                "pending": [place.plan.group_id for place in under_way], "memory": self.memory.state()}

    def _next_question(self) -> int:
        self._question += 1
        return self._question - 1

    def _plan_of(self, item: int | str) -> GroupPlan:
        if isinstance(item, int):
            return self._plan(*self._at(item), None)
        entry = self.memory[item]
        return self._plan(self._by_id[entry.sample_id], entry.epoch, entry)

    def _at(self, number: int) -> tuple[VideoSample, int]:
        epoch, place = divmod(number, len(self._samples))
        if epoch not in self._epochs:
            self._epochs[epoch] = epoch_order(self._samples, self._seed, epoch)
        return self._samples[self._epochs[epoch][place]], epoch


def corruption_of(entry: Deferred) -> CorruptionSpec | None:
    """The corruption that a deferred question was asked through."""
    return parse_spec(entry.corruption) if entry.corruption else None
