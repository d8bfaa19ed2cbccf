"""The pictures that the page shows: fetched for a row of the result, made small, and kept for a while."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from common.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from embedder.explore.queries import Queries
    from embedder.query.program import Picture

MAX_SIDE = 320
"""The longest side of a picture in pixels: a grid's cell on a screen with two pixels for one."""

KEPT_BYTES = 64 << 20
"""Size in bytes of the pictures that are kept: about 4,000 of them."""

FETCHED_AT_ONCE = 12
"""Number of pictures that are asked for at a time. The query program has limits of its own for each host."""

SECONDS = 40
"""How long a picture is waited for, in seconds."""

_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/webp"})


class PictureRefused(DataError):
    """A picture cannot be shown."""


class Pictures:
    """Fetches each picture once, and keeps those that were asked for last. To be used in one event loop."""

    def __init__(self, queries: Queries, url_of: Callable[[int], Awaitable[str]]) -> None:
        self._queries, self._url_of = queries, url_of
        self._slots = asyncio.Semaphore(FETCHED_AT_ONCE)
        self._kept: OrderedDict[int, Picture] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[int, asyncio.Task[Picture]] = {}

    async def picture(self, row: int) -> Picture:
        """Return the small picture of a row. Raises PictureRefused, or the error of the query program."""
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        task = self._coming.get(row)
        if task is None:
            task = self._coming[row] = asyncio.ensure_future(self._fetch(row))
            task.add_done_callback(lambda done: self._arrived(row, done))
        # A browser that no longer waits does not stop the picture for another one.
        return await asyncio.shield(task)

    async def _fetch(self, row: int) -> Picture:
        async with self._slots:
            url = await self._url_of(row)
            try:
                async with asyncio.timeout(SECONDS):
                    picture = await asyncio.wrap_future(self._queries.picture(url, max_side=MAX_SIDE))
            except TimeoutError as error:
                raise PictureRefused(f"the picture did not arrive within {SECONDS} s") from error
        if picture.media_type not in _MEDIA_TYPES:
            raise PictureRefused(f"the picture is {picture.media_type}, which this page does not show")
        return picture

    def _arrived(self, row: int, task: asyncio.Task[Picture]) -> None:
        del self._coming[row]
        # Failures are not kept: the next look may find the picture.
        if task.cancelled() or task.exception() is not None:
            return
        self._kept[row] = task.result()
        self._kept_bytes += len(task.result().data)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.data)
