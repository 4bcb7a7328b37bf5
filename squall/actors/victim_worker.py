"""The process of a victim, and the one that keeps the ledger of a pool."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from squall.actors.batching import Batcher
from squall.actors.cluster import set_threads
from squall.actors.logs import keep_log
from squall.actors.victim_core import CountedModel, Question, Request, read_row
from squall.actors.victim_ledger import Pass, VictimLedger

if TYPE_CHECKING:
    from squall.actors.victim_config import VictimPoolConfig
    from squall.actors.victim_sources import VictimSource


@ray.remote(max_restarts=-1, max_task_retries=-1)
class LedgerKeeper(VictimLedger):
    """The ledger in a process of its own. What is entered twice counts once, so Ray may repeat its calls when it dies."""

    def ready(self) -> int:
        """Process id."""
        return os.getpid()


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1})
class VictimWorker:
    """Asyncio actor that answers callers in batches, which may hold clips of several. Who is not answered asks again."""

    def __init__(self, name: str, source: VictimSource, config: VictimPoolConfig, keeper: tuple[str, str], counts: Path,
                 log: Path | None = None) -> None:
        """`keeper` is name and namespace of the ledger's actor, `counts` the folder of the processes' own counters, and `log`
        the file that gets what this one prints."""
        keep_log(log)
        set_threads(config.cpus)
        self._began = 0.0
        self._keeper: Any = ray.get_actor(*keeper)  # a handle as an argument would bind restarts to the object store
        self._model = CountedModel(source.open("cuda" if config.gpus else "cpu"), name, counts, self._enter, config.label_only)
        self._answer: Batcher[Question, np.ndarray] = Batcher(self._work, config.asking.max_batch, config.wait_ms / 1000)

    async def ready(self) -> tuple[int, str]:
        """Process id, and this process as the ledger calls it, once a clip of noise has gone through the model (it counts)."""
        await self._answer(self._model.probe())
        return os.getpid(), self._model.responder

    @ray.method(concurrency_group="health")
    async def busy_s(self) -> float:
        """Seconds that the batch in the model has been there; 0 without one. Answers while the model works."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    async def ask(self, request: Request, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (n, K). What an earlier attempt of the request has found is not computed again."""
        keys = [request.key(row) for row in range(len(clips))]
        known = await self._keeper.find.remote(keys) if request.attempt else {}
        asked = [Question(key, request.purpose, request.attempt, clip)
                 for key, clip in zip(keys, clips, strict=True) if key not in known]
        rows = dict(zip([question.key for question in asked], await asyncio.gather(*map(self._answer, asked)), strict=True))
        return np.stack([rows[key] if key in rows else read_row(known[key]) for key in keys])

    def _work(self, questions: Sequence[Question]) -> list[np.ndarray]:
        self._began = time.monotonic()
        try:
            return self._model.answer(questions)
        finally:
            self._began = 0.0

    def _enter(self, passes: Sequence[Pass]) -> None:
        ray.get(self._keeper.enter.remote(passes))
