from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref

import pytest

from common.parallel import begin, ordered


def test_products_come_in_the_order_of_the_items() -> None:
    later = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert later.wait(10)  # the first call ends after the second one
        if number == 1:
            later.set()
        return number * number

    assert list(ordered(work, range(100), concurrency=3)) == [number * number for number in range(100)]
    assert list(ordered(work, [], concurrency=3)) == []


@pytest.mark.parametrize(("concurrency", "budget", "most"), [(1, 2, 2), (4, 5, 5), (3, 0, 6)])
def test_no_more_than_the_budget_is_held(concurrency: int, budget: int, most: int) -> None:
    class Block:
        pass

    held: weakref.WeakSet[Block] = weakref.WeakSet()
    at_once, running, lock = 0, 0, threading.Lock()

    def read(_: int) -> Block:
        nonlocal at_once, running
        with lock:
            running += 1
            at_once = max(at_once, running)
        block = Block()
        held.add(block)
        time.sleep(0.002)  # long enough for other calls to begin
        with lock:
            running -= 1
        return block

    blocks = ordered(read, range(50), concurrency=concurrency, cost=lambda _: 1 if budget else 0, budget=budget)
    counts = []
    for block in blocks:
        del block
        counts.append(len(held))
    assert max(counts) <= most
    assert at_once <= concurrency


def test_an_item_that_costs_more_than_the_budget_is_worked_on_alone() -> None:
    assert list(ordered(lambda size: size, [1, 50, 1, 1], concurrency=4, cost=lambda size: size, budget=10)) == [
        1,
        50,
        1,
        1,
    ]


def test_the_error_of_a_call_is_raised_and_no_further_call_begins() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    products = ordered(work, range(1000), concurrency=2)
    assert [next(products), next(products)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(products)
    assert len(begun) < 10


def test_threads_end_with_the_last_product_and_with_whoever_stops_to_ask() -> None:
    assert list(ordered(str, range(9), concurrency=4)) == list("012345678")
    products = ordered(str, range(9), concurrency=4)
    next(products)
    products.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ordered-"):
            thread.join(10)
            assert not thread.is_alive()


def test_the_future_of_a_work_has_its_product_or_its_error() -> None:
    assert begin("one", lambda: 1).result(10) == 1
    with pytest.raises(ZeroDivisionError):
        begin("two", lambda: 1 // 0).result(10)


def test_a_process_ends_while_its_threads_wait() -> None:
    program = """
import threading
from common.parallel import begin, ordered
def wait(_=None):
    threading.Event().wait()
begin("for ever", wait)
products = ordered(lambda number: wait() if number else number, range(5), concurrency=3)
print(next(products))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "0\n"
