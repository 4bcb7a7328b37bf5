"""Which groups may be under way, and which make the next step: one rule for synchronous and for overlapped training.

Questions stand in one endless order. A step trains on the next `groups_per_step` useful groups *in that order*, so what a step
is made of does not depend on which worker was faster, and a run that stops knows what it has consumed by one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of one position of the order."""

    position: int
    useful: bool
    """Whether a step can be trained on it."""
    content: Any


class AdmissionQueue:
    """Positions from `cursor` on: launched, settled, taken.

    Admission: accepted + running groups <= (max_staleness + step + 1) * groups_per_step, steps counted from 0. Groups that turn
    out useless, or are lost, give their place back. As steps take groups in order, a group that was launched under the weights
    of step s is trained on at step s + max_staleness at the latest.
    """

    def __init__(self, groups_per_step: int, max_staleness: int, max_sampled_groups: int, *, steps: int,
                 cursor: int = 0) -> None:
        """Args:
            max_sampled_groups: bounds the positions of one step; a step that reaches it takes what is useful in them.
            steps: how many steps are still to be taken; nothing is launched for more.
        """
        self.taken = self._next = cursor
        """Every position below has been consumed by a step; none above has."""
        self._per_step, self._staleness, self._limit, self._steps = groups_per_step, max_staleness, max_sampled_groups, steps
        self._settled: dict[int, Settled] = {}
        self._useful = 0

    def launch(self, learning: bool) -> int | None:
        """The next position to start, or None when no more may be under way.

        Args:
            learning: whether a step's groups are with the learner, which has not finished with them.
        """
        running = self._next - self.taken - len(self._settled)
        ahead = min(self._staleness + 1 - learning, self._steps)
        if self._useful + running >= ahead * self._per_step or self._next - self.taken >= ahead * self._limit:
            return None
        self._next += 1
        return self._next - 1

    def settle(self, position: int, useful: bool, content: Any) -> None:
        """Say what came of a position. Raises ValueError for one that is not under way: nothing counts twice."""
        if position in self._settled or not self.taken <= position < self._next:
            raise ValueError(f"position {position} is not under way")
        self._settled[position] = Settled(position, useful, content)
        self._useful += useful

    def take(self) -> list[Settled] | None:
        """The positions of the next step, in order, or None while one of them is still under way."""
        step: list[Settled] = []
        useful = 0
        while useful < self._per_step and len(step) < self._limit:
            settled = self._settled.get(self.taken + len(step))
            if settled is None:
                return None
            step.append(settled)
            useful += settled.useful
        for settled in step:
            del self._settled[settled.position]
        self._useful -= useful
        self.taken += len(step)
        self._steps -= 1
        return step

    @property
    def pending(self) -> range:
        """Positions launched and not consumed: a resumed run starts them again."""
        return range(self.taken, self._next)
