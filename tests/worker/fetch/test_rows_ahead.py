"""Rows are handed out in their order, except that those of a busy host wait for it."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.fetch.fetching import worker_settings
from worker.fetch.rows_ahead import Place, RowsAhead
from worker.fetch.sites import Sites
from worker.fetch.slots import Slots
from worker.rows import Row


def rows_of(hosts: str) -> list[Row]:
    """Return one row for each letter, which is its host."""
    return [Row(number, host) for number, host in enumerate(hosts)]


def ahead_of(hosts: str, slots: Slots, *, most_waiting: int = 100, most_under_way: int = 100) -> RowsAhead:
    return RowsAhead(
        rows_of(hosts),
        place_of=lambda row: Place(row.url, None),
        slots=slots,
        sites=Sites(worker_settings().fetch),
        most_waiting=most_waiting,
        most_under_way=most_under_way,
    )


@settings(max_examples=200, deadline=None)
@given(
    hosts=st.text("abc", max_size=40),
    tasks=st.integers(1, 50),
    total=st.integers(1, 6),
    per_host=st.integers(1, 6),
    most_waiting=st.integers(1, 8),
    most_under_way=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_handed_out_once_and_every_task_ends(  # noqa: PLR0917 - hypothesis fills them in
    hosts: str, tasks: int, total: int, per_host: int, most_waiting: int, most_under_way: int, seed: int
) -> None:
    order = random.Random(seed)
    given_out: list[int] = []
    under_way = 0
    wrong: list[int] = []

    async def run() -> None:
        slots = Slots(total=total, per_host=per_host)
        ahead = ahead_of(hosts, slots, most_waiting=most_waiting, most_under_way=most_under_way)
        later: list[asyncio.Task[None]] = []

        async def pause() -> None:
            for _ in range(order.randrange(4)):
                await asyncio.sleep(0)

        async def settle(row: Row) -> None:
            nonlocal under_way
            await pause()
            under_way -= 1
            ahead.note_settled(row)

        async def work() -> None:
            nonlocal under_way
            while (row := await ahead.next()) is not None:
                given_out.append(row.position)
                under_way += 1
                if under_way > most_under_way:
                    wrong.append(under_way)
                for _ in range(order.randrange(3)):  # attempts
                    await pause()
                    async with slots.slot(row.url):
                        await pause()
                later.append(asyncio.create_task(settle(row)))

        await asyncio.gather(*(work() for _ in range(tasks)))
        await asyncio.gather(*later)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert sorted(given_out) == list(range(len(hosts)))
    assert wrong == []


def test_the_rows_of_a_busy_host_are_passed_over_and_follow_when_it_has_a_slot() -> None:
    async def run() -> None:
        slots = Slots(total=4, per_host=2)
        ahead = ahead_of("aaaabb", slots)
        found = []
        for _ in range(4):
            row = await ahead.next()
            assert row is not None
            found.append(row.position)
            await slots.acquire(row.url)
        assert found == [0, 1, 4, 5]
        waiting = asyncio.create_task(ahead.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        slots.release("b")
        await asyncio.sleep(0.01)
        assert not waiting.done()
        slots.release("a")
        row = await waiting
        assert row is not None
        assert row.position == 2

    asyncio.run(asyncio.wait_for(run(), 10))


def test_the_rows_that_wait_for_a_host_are_limited() -> None:
    async def run() -> None:
        slots = Slots(total=4, per_host=1)
        ahead = ahead_of("aaaab", slots, most_waiting=2)
        await ahead.next()
        await slots.acquire("a")
        waiting = asyncio.create_task(ahead.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()  # the row of b comes after more rows than may wait
        slots.release("a")
        row = await waiting
        assert row is not None
        assert row.position == 1

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_row_that_is_settled_makes_room_for_another_one() -> None:
    async def run() -> None:
        ahead = ahead_of("aaa", Slots(total=8, per_host=8), most_under_way=2)
        first, second = await ahead.next(), await ahead.next()
        assert first is not None
        assert second is not None
        waiting = asyncio.create_task(ahead.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        ahead.note_settled(first)
        row = await waiting
        assert row is not None
        assert row.position == 2
        waiting = asyncio.create_task(ahead.next())
        await asyncio.sleep(0.01)
        ahead.note_settled(second)
        assert await waiting is None

    asyncio.run(asyncio.wait_for(run(), 10))
