"""The bounded buffer between the rollout side and the learner: commands go in, results come back, both in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class Twin:
    """What the learner needs to compare an answer's distributions with those about the other clip of its question."""

    clip_hash: str
    """The clean clip for an answer about the corrupted one, and the other way round."""
    place: int
    """The answer's number in its batch."""
    group: int
    """Number, in the batch, of the answers whose advantages are taken together."""
    reward: float
    """Weighted sum of the answer's other rewards."""
    bonus: float
    """Temporal bonus of the answer."""


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One answer as the learner needs it."""

    prompt: str
    clip_hash: str
    token_ids: tuple[int, ...]
    advantage: float = 1.0
    engine_logprobs: tuple[float, ...] | None = None
    """Log-probabilities under which the engine sampled the tokens; None for supervised targets."""
    twin: Twin | None = None
    """Given when clips are compared; where the comparison is a reward, the learner takes the advantage anew."""

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Prompt, clip and the clip that it is compared with: answers with the same key share them."""
        return self.prompt, self.clip_hash, self.twin and self.twin.clip_hash


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Everything of one learner step. Clips are references; each worker fetches those of its own sequences."""

    step: int
    sequences: tuple[TrainSequence, ...]
    clips: Mapping[str, ray.ObjectRef] = field(default_factory=dict)

    @property
    def token_count(self) -> int:
        """Answer tokens of the whole batch, over all workers: what the loss is divided by."""
        return sum(len(sequence.token_ids) for sequence in self.sequences)

    @property
    def prompt_count(self) -> int:
        """Different prompts with their clips; the answers to one stay together."""
        return len({sequence.key for sequence in self.sequences})

    def split(self, parts: int) -> list[tuple[TrainSequence, ...]]:
        """Cut the batch into parts with about as many prompts each, in order, answers to one prompt together."""
        keys = list(dict.fromkeys(sequence.key for sequence in self.sequences))
        part = {key: number * parts // len(keys) for number, key in enumerate(keys)}
        return [tuple(s for s in self.sequences if part[s.key] == number) for number in range(parts)]


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand the learner's weights to the engines under a version."""

    version: int
    engines: tuple[int, ...] | None = None
    """Numbers of the engines that live; None for all."""
    reconnect: bool = False
    """Open the connection anew first, because an engine was replaced."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write weights, optimiser and processor into a directory that rank 0 sees."""

    directory: str


Command = TrainBatch | Publish | Save
"""What the learner of video models obeys; the buffer itself takes any command."""


@ray.remote(num_cpus=0, max_concurrency=64)
class RolloutBuffer:
    """Holds at most `capacity` commands that the learner has not finished; `put` waits for room.

    Each of `readers` learner workers takes command `index` once; it is dropped when all have and rank 0 has reported on it.
    """

    def __init__(self, capacity: int, readers: int) -> None:
        self._capacity, self._readers = capacity, readers
        self._reads: Counter[int] = Counter()
        self._reported: set[int] = set()
        self._commands: dict[int, Any | None] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._nodes: set[str] = set()
        self._changed = asyncio.Condition()

    async def put(self, index: int, command: Any | None) -> None:
        """Add command `index`; None tells the workers to leave their loop."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._commands) < self._capacity or command is None)
            self._commands[index] = command
            self._changed.notify_all()

    async def arrive(self, node: str) -> None:
        """A learner worker says on which node it lies, by Ray's id."""
        self._nodes.add(node)

    async def nodes(self) -> set[str]:
        """Ids of the nodes with learner workers."""
        return self._nodes

    async def take(self, index: int) -> Any | None:
        """Wait for command `index`. Called by every learner worker."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._commands)
            command = self._commands[index]
            self._reads[index] += 1
            self._drop_if_done(index)
            return command

    async def report(self, index: int, result: dict[str, Any]) -> None:
        """Rank 0 hands in what came of command `index` (-1: the workers are ready), which frees its place."""
        async with self._changed:
            self._reported.add(index)
            self._drop_if_done(index)
            self._results[index] = result
            self._changed.notify_all()

    def _drop_if_done(self, index: int) -> None:
        if index >= 0 and index in self._reported and self._reads[index] == self._readers:
            del self._commands[index], self._reads[index]
            self._reported.discard(index)
            self._changed.notify_all()

    async def result(self, index: int) -> dict[str, Any]:
        """Wait for and remove the result of command `index`."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._results)
            return self._results.pop(index)
