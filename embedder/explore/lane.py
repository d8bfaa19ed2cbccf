"""Work in threads that an event loop waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from common.parallel import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Product = TypeVar("Product")


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
