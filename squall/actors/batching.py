"""Puts what is asked at the same time into one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects calls of one event loop; the work runs in a thread, a batch at a time, in the order of the calls."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], max_batch: int, wait_s: float) -> None:
        """`work` returns a result for each item; `wait_s` is how long a batch that is not full waits for more."""
        self._work, self._max_batch, self._wait_s = work, max_batch, wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._draining: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result of one item. Where a batch fails each item is tried alone, so that one cannot spoil the others."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._wait_s)
            await self._settle([self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))])

    async def _settle(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await asyncio.to_thread(self._work, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._settle([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # whoever asked may have been cancelled
                future.set_result(result)
