"""Calls in threads. The threads end with the process, whatever they wait for.

An executor's threads would be waited for at the end: a read from a store that does not answer takes minutes.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Item = TypeVar("Item")
Product = TypeVar("Product")


thread_starts = threading.Lock()
"""Held while a thread of this module starts. Who holds it can rely on the memory that is free: a new thread takes 8 MB
for its stack, and 64 MB of addresses for its heap."""


def begin(name: str, work: Callable[[], Product]) -> Future[Product]:
    """Begin the work in a thread of its own, and return the future of what it returns or raises."""
    future: Future[Product] = Future()
    future.set_running_or_notify_cancel()  # from now on nobody can cancel it
    with thread_starts:
        threading.Thread(target=_settle, args=(future, work), name=name, daemon=True).start()
    return future


def ordered(
    function: Callable[[Item], Product],
    items: Iterable[Item],
    *,
    concurrency: int,
    cost: Callable[[Item], int] = lambda _: 0,
    budget: int = 0,
) -> Generator[Product]:
    """Yield function(item) for each item, in the order of the items.

    Up to `concurrency` calls run at the same time. The product that was yielded last and the items ahead of it are at
    most twice as many, and cost no more than `budget` together; a single item may cost more. An error of a call is
    raised here, and the calls that have not begun are dropped.
    """
    calls: SimpleQueue[tuple[Future[Product], Item] | None] = SimpleQueue()
    is_over = threading.Event()
    threads = [
        threading.Thread(target=_serve, args=(function, calls, is_over), name=f"ordered-{number}", daemon=True)
        for number in range(concurrency)
    ]
    started = 0
    ahead: deque[tuple[Future[Product], int]] = deque()
    spent = 0
    try:
        for item in items:
            price = cost(item)
            while ahead and (len(ahead) >= 2 * concurrency or spent + price > budget):
                future, paid = ahead.popleft()
                yield future.result()
                del future
                spent -= paid
            future = Future()
            calls.put((future, item))
            ahead.append((future, price))
            spent += price
            if started < concurrency:
                with thread_starts:
                    threads[started].start()
                started += 1
        while ahead:
            yield ahead.popleft()[0].result()
    finally:
        is_over.set()
        for _ in range(started):
            calls.put(None)


def _serve(
    function: Callable[[Item], Product],
    calls: SimpleQueue[tuple[Future[Product], Item] | None],
    is_over: threading.Event,
) -> None:
    while (call := calls.get()) is not None:
        future, item = call
        if not is_over.is_set():
            _settle(future, partial(function, item))
        del call, future, item  # what they hold may be large, and the next call may be far away


def _settle(future: Future[Product], work: Callable[[], Product]) -> None:
    try:
        product = work()
    except BaseException as error:  # noqa: BLE001 - raised where the product is waited for
        future.set_exception(error)
    else:
        future.set_result(product)
