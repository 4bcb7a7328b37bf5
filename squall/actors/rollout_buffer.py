"""The bounded buffer between the rollout side and the learner: commands go in, results come back, both in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One answer as the learner needs it."""

    prompt: str
    clip_hash: str
    token_ids: tuple[int, ...]
    advantage: float = 1.0
    engine_logprobs: tuple[float, ...] | None = None
    """Log-probabilities under which the engine sampled the tokens; None for supervised targets."""


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Everything of one learner step. Clips are references; each worker fetches those of its own sequences."""

    step: int
    sequences: tuple[TrainSequence, ...]
    clips: Mapping[str, ray.ObjectRef] = field(default_factory=dict)
    checkpoint: str | None = None
    """Directory to write a Hugging Face checkpoint to after the step."""

    @property
    def token_count(self) -> int:
        """Answer tokens of the whole batch, over all workers: what the loss is divided by."""
        return sum(len(sequence.token_ids) for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand the learner's weights to the engines under a version."""

    version: int
    reconnect: bool = False
    """Open the connection anew first, because an engine was replaced."""


Command = TrainBatch | Publish


@ray.remote(num_cpus=0, max_concurrency=64)
class RolloutBuffer:
    """Holds at most `capacity` commands that the learner has not finished; `put` waits for room.

    Every learner worker takes command `index` once; it is dropped when rank 0 has reported on it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._commands: dict[int, Command | None] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._changed = asyncio.Condition()

    async def put(self, index: int, command: Command | None) -> None:
        """Add command `index`; None tells the workers to leave their loop."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._commands) < self._capacity or command is None)
            self._commands[index] = command
            self._changed.notify_all()

    async def take(self, index: int) -> Command | None:
        """Wait for command `index`. Called by every learner worker."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._commands)
            return self._commands[index]

    async def report(self, index: int, result: dict[str, Any]) -> None:
        """Rank 0 hands in what came of command `index` (-1: the workers are ready), which frees its place."""
        async with self._changed:
            self._commands.pop(index, None)
            self._results[index] = result
            self._changed.notify_all()

    async def result(self, index: int) -> dict[str, Any]:
        """Wait for and remove the result of command `index`."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._results)
            return self._results.pop(index)
