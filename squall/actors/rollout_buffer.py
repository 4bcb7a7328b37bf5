"""The bounded buffer between the rollout side and the learner: batches go in, metrics come back, both in order."""

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
    publish_weights: bool = False
    """Write the new weights where the engines can read them."""
    checkpoint: str | None = None
    """Directory to write a Hugging Face checkpoint to after the step."""

    @property
    def token_count(self) -> int:
        """Answer tokens of the whole batch, over all workers: what the loss is divided by."""
        return sum(len(sequence.token_ids) for sequence in self.sequences)


@ray.remote(num_cpus=0, max_concurrency=64)
class RolloutBuffer:
    """Holds at most `capacity` batches that the learner has not finished; `put` waits for room.

    Every learner worker takes batch `index` once; the batch is dropped when rank 0 has reported on it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._batches: dict[int, TrainBatch | None] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._changed = asyncio.Condition()

    async def put(self, index: int, batch: TrainBatch | None) -> None:
        """Add batch `index`; None tells the workers to leave their loop."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._batches) < self._capacity or batch is None)
            self._batches[index] = batch
            self._changed.notify_all()

    async def take(self, index: int) -> TrainBatch | None:
        """Wait for batch `index`. Called by every learner worker."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._batches)
            return self._batches[index]

    async def report(self, index: int, result: dict[str, Any]) -> None:
        """Rank 0 hands in what came of batch `index` (-1: the workers are ready), which frees its place."""
        async with self._changed:
            self._batches.pop(index, None)
            self._results[index] = result
            self._changed.notify_all()

    async def result(self, index: int) -> dict[str, Any]:
        """Wait for and remove the result of batch `index`."""
        async with self._changed:
            await self._changed.wait_for(lambda: index in self._results)
            return self._results.pop(index)
