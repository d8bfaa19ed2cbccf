"""Work in threads whose results are taken in order, with bounds on what is under way."""

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
    """Yield function(item) of each item in the order of the items.

    Calls are under way for up to twice `concurrency` items ahead, and for no more of them than cost `budget` together
    (but always for one). What a call raises is raised here, and the calls that have not begun are dropped.
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
