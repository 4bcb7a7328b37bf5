"""Calls at the same time become batches: together, in order, and one that fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from squall.actors.batching import Batcher


async def gathered(batcher: Batcher[int, int], items: Sequence[int]) -> list[int | BaseException]:
    return await asyncio.gather(*(batcher(item) for item in items), return_exceptions=True)


def doubling(seen: list[list[int]]):
    def work(items: Sequence[int]) -> list[int]:
        seen.append(list(items))
        if 13 in items:
            raise ValueError(f"13 among {len(items)}")
        return [2 * item for item in items]

    return work


def test_concurrent_calls_share_a_batch_and_keep_their_order() -> None:
    seen: list[list[int]] = []
    batcher = Batcher(doubling(seen), max_batch=4, wait_s=0.01)
    assert asyncio.run(gathered(batcher, range(10))) == [2 * item for item in range(10)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_one_call_waits_for_others_and_calls_meanwhile_form_the_next_batch() -> None:
    seen: list[list[int]] = []

    async def staggered() -> None:
        batcher = Batcher(doubling(seen), max_batch=4, wait_s=0.05)
        first = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.01)
        assert await batcher(2) == 4 and await first == 2
        assert await batcher(3) == 6

    asyncio.run(staggered())
    assert seen == [[1, 2], [3]]


def test_an_item_that_fails_does_not_spoil_the_others() -> None:
    seen: list[list[int]] = []
    first, bad, last = asyncio.run(gathered(Batcher(doubling(seen), max_batch=8, wait_s=0.01), [1, 13, 3]))
    assert (first, last) == (2, 6) and str(bad) == "13 among 1"
    assert seen == [[1, 13, 3], [1], [13], [3]]


def test_a_caller_that_gave_up_holds_nobody_back() -> None:
    async def given_up() -> int:
        batcher = Batcher(doubling([]), max_batch=2, wait_s=0.02)
        lost, kept = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        await asyncio.sleep(0)
        lost.cancel()
        return await asyncio.wait_for(kept, 5)

    assert asyncio.run(given_up()) == 4
