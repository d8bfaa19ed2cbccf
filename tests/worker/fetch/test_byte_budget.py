"""The bytes of images stay within their budget, whatever their sizes, and no image waits for ever."""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.fetch.byte_budget import ByteBudget, Reservation

LIMIT = 100
MOST = 150
"""Size of the largest body in the tests of growth: more than the limit."""


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


class Body(NamedTuple):
    """A body whose length is announced, or one that comes in pieces."""

    first: int
    pieces: list[int]
    is_announced: bool
    is_broken: bool
    """Whether it ends before its last piece."""

    @property
    def length(self) -> int:
        return sum(self.pieces)


bodies = st.builds(
    Body,
    st.integers(0, 20),
    st.lists(st.integers(0, 50), max_size=6).filter(lambda pieces: sum(pieces) <= MOST),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(bodies, min_size=1, max_size=12),
    cancelled=st.sets(st.integers(0, 11)),
    seed=st.integers(0, 2**32),
)
def test_bodies_that_outgrow_their_bytes_never_wait_for_each_other_and_only_one_exceeds_the_budget(  # noqa: C901 - one story
    bodies: list[Body], cancelled: set[int], seed: int
) -> None:
    order = random.Random(seed)
    budget = ByteBudget(LIMIT)
    kept: dict[int, int] = {}
    most_kept = 0

    async def pause() -> None:
        for _ in range(order.randrange(4)):
            await asyncio.sleep(0)

    async def fetch(number: int, body: Body) -> None:
        reservation = Reservation(budget, most_bytes=MOST)
        try:
            await reservation.take(body.first)
            kept[number] = 0
            for piece in body.pieces[: -1 if body.is_broken else None]:
                await pause()
                keep(number, await covered(number, body, reservation, piece))
                assert kept[number] <= reservation.size
            if not body.is_broken:
                reservation.settle(kept[number])
                assert reservation.size == kept[number]
                await pause()
        finally:
            kept.pop(number, None)
            reservation.release()

    async def covered(number: int, body: Body, reservation: Reservation, piece: int) -> int:
        size = body.length if body.is_announced else kept[number] + piece
        if size > reservation.size:
            await reservation.cover(size, is_first=not kept[number])
        return piece

    def keep(number: int, piece: int) -> None:
        nonlocal most_kept
        kept[number] += piece
        others = sorted(kept.values())[:-1]
        assert sum(others) <= max(LIMIT, MOST)  # MOST for an announced body that was alone when it began
        most_kept = max(most_kept, sum(kept.values()))

    async def run() -> None:
        tasks = [asyncio.create_task(fetch(number, body)) for number, body in enumerate(bodies)]
        for number in sorted(cancelled & set(range(len(bodies)))):
            await pause()
            tasks[number].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome

    asyncio.run(asyncio.wait_for(run(), 10))
    assert budget.reserved == 0
    assert not budget.beyond_limit.locked()
    # All but one fit into the budget, unless an announced body that is larger than the budget is there before.
    assert most_kept <= max([LIMIT, *(body.length for body in bodies if body.is_announced)]) + MOST


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
