"""Calls in threads, with results in the order of the calls and with a limit on the work in flight."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    concurrency: int,
    cost: Callable[[Item], int] = lambda _: 0,
    budget: int = 0,
) -> Iterator[Result]:
    """Yield function(item) for each item, in the order of the items.

    Up to `concurrency` calls run at the same time. Up to twice as many items are ahead of the one yielded, as long as
    they cost no more than `budget` together; a single item may cost more. An error of a call is raised here, and the
    calls that have not begun are dropped.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix=getattr(function, "__name__", "ordered"))
    ahead: deque[tuple[Future[Result], int]] = deque()
    spent = 0
    try:
        for item in items:
            price = cost(item)
            while ahead and (len(ahead) >= 2 * concurrency or spent + price > budget):
                future, paid = ahead.popleft()
                yield future.result()
                spent -= paid
            ahead.append((pool.submit(function, item), price))
            spent += price
        while ahead:
            yield ahead.popleft()[0].result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
