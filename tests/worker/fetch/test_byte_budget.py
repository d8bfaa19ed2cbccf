from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.fetch.byte_budget import ByteBudget


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=30),
    cancelled=st.sets(st.integers(0, 29)),
    seed=st.integers(0, 2**32),
)
def test_images_hold_no_more_bytes_than_the_budget_and_give_all_of_them_back(
    sizes: list[int], cancelled: set[int], seed: int
) -> None:
    order = random.Random(seed)
    budget = ByteBudget(100)
    out: list[int] = []
    wrong: list[tuple[list[int], int]] = []

    async def use(size: int) -> None:
        await budget.reserve(size)
        out.append(size)
        is_alone = sum(each > 0 for each in out) == 1
        if sum(out) > budget.reserved or (sum(out) > 100 and not is_alone):
            wrong.append((list(out), budget.reserved))
        try:
            for _ in range(order.randrange(4)):
                await asyncio.sleep(0)
        finally:
            out.remove(size)
            budget.release(size)

    async def run() -> None:
        tasks = [asyncio.create_task(use(size)) for size in sizes]
        for number in sorted(cancelled & set(range(len(sizes)))):
            await asyncio.sleep(0)
            tasks[number].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert wrong == []
    assert budget.reserved == 0


def test_a_large_image_is_not_overtaken_by_small_ones() -> None:
    async def run() -> list[str]:
        budget = ByteBudget(100)
        granted: list[str] = []

        async def use(name: str, size: int) -> None:
            await budget.reserve(size)
            granted.append(name)

        await budget.reserve(60)
        tasks = [asyncio.create_task(use("large", 90)), asyncio.create_task(use("small", 10))]
        await asyncio.sleep(0)
        assert granted == []
        budget.release(60)
        await asyncio.gather(*tasks)
        return granted

    assert asyncio.run(run()) == ["large", "small"]


def test_an_image_that_is_cancelled_while_it_gets_its_bytes_gives_them_back() -> None:
    async def run() -> int:
        budget = ByteBudget(100)
        await budget.reserve(100)
        waiting = asyncio.create_task(budget.reserve(50))
        await asyncio.sleep(0)
        budget.release(100)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return budget.reserved

    assert asyncio.run(run()) == 0
