"""Work in threads that end with the process, whatever they wait for.

An executor's threads would be waited for at the end: a read from a store that does not answer takes minutes.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Product = TypeVar("Product")


def begin(name: str, work: Callable[[], Product]) -> Future[Product]:
    """Begin the work in a thread of its own, and return the future of what it returns or raises."""
    future: Future[Product] = Future()
    future.set_running_or_notify_cancel()  # from now on nobody can cancel it

    def run() -> None:
        try:
            product = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(product)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Lane:
    """A way for an event loop to wait for work in threads, so much of it at a time."""

    def __init__(self, name: str, *, width: int) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(width)

    async def run(self, work: Callable[[], Product]) -> Product:
        """Return the product of the work once there is room for it and it is done."""
        async with self._slots:
            return await asyncio.wrap_future(begin(self._name, work))

    async def run_all(self, works: Sequence[Callable[[], Product]]) -> list[Product]:
        """Return the products in the order of the works. Raises the first error."""
        return list(await asyncio.gather(*map(self.run, works)))


def run_side_by_side(name: str, works: Sequence[Callable[[], Product]], *, width: int) -> list[Product]:
    """Return the products in the order of the works, of which `width` run at a time. Raises an error of one of them."""
    left = list(enumerate(works))[::-1]
    products: dict[int, Product] = {}

    def take() -> None:
        while left:
            try:
                number, work = left.pop()
            except IndexError:
                return
            products[number] = work()

    for future in [begin(name, take) for _ in range(min(width, len(works)))]:
        future.result()
    return [products[number] for number in range(len(works))]
