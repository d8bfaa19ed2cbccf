"""The slots of requests, under any order of requests, ends and cancellations."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.fetch.slots import Slots


@settings(max_examples=100, deadline=None)
@given(
    hosts=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    total=st.integers(1, 6),
    per_host=st.integers(1, 6),
    cancelled=st.sets(st.integers(0, 39)),
    seed=st.integers(0, 2**32),
)
def test_no_limit_is_passed_and_every_request_has_its_turn(
    hosts: list[str], total: int, per_host: int, cancelled: set[int], seed: int
) -> None:
    order = random.Random(seed)
    slots = Slots(total=total, per_host=per_host)
    now: Counter[str] = Counter()
    wrong: list[Counter[str]] = []

    async def use(host: str) -> None:
        async with slots.slot(host):
            now[host] += 1
            if now.total() > total or now[host] > per_host or now.total() > slots.in_use:
                wrong.append(now.copy())
            try:
                for _ in range(order.randrange(4)):
                    await asyncio.sleep(0)
                    if slots.is_no_host_full and not all(map(slots.free_for, hosts)):
                        wrong.append(now.copy())
            finally:
                now[host] -= 1

    async def run() -> None:
        tasks = [asyncio.create_task(use(host)) for host in hosts]
        for number in sorted(cancelled & set(range(len(hosts)))):
            await asyncio.sleep(0)
            tasks[number].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert wrong == []
    assert slots.in_use == 0
    assert asyncio.run(_all_at_once(slots, total, per_host)) == min(total, per_host)


async def _all_at_once(slots: Slots, total: int, per_host: int) -> int:
    """Return how many slots of one host can be taken at the same time."""
    taken = 0
    for _ in range(min(total, per_host) + 1):
        try:
            await asyncio.wait_for(slots.acquire("a"), 0.01)
        except TimeoutError:
            break
        taken += 1
    return taken


def test_a_host_whose_slots_are_taken_delays_no_other_host() -> None:
    async def run() -> list[str]:
        slots = Slots(total=3, per_host=1)
        await slots.acquire("slow")
        waiting = [asyncio.create_task(slots.acquire("slow")) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.wait_for(slots.acquire("other"), 1)
        order = []
        for name, task in enumerate(waiting):
            task.add_done_callback(lambda _, name=name: order.append(str(name)))  # type: ignore[misc]
        for _ in waiting:
            slots.release("slow")
            await asyncio.sleep(0.001)
        return order

    assert asyncio.run(run()) == ["0", "1", "2", "3", "4"]
