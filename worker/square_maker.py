"""Fetches and decodes the images of a chunk, as one event loop tells the decoders."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from worker.decoders.decoders import error_of
from worker.decoders.job import Lost
from worker.decoders.large_images import LargeImages
from worker.fetch.must_wait import MustWait
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.decoders.job import Decoded, Job
    from worker.fetch.fetched import Fetched
    from worker.fetch.image_fetcher import ImageFetcher
    from worker.rows import Row

MAX_BLAMES = 2
"""Number of decoders that may die while they decode an image. The image before may have damaged the first one, or an
image that it fetched meanwhile. So after the first one the image is fetched while no other image is that was ever lost,
unless it was the image's own time limit that ended the decoder."""

MAX_LOSSES = 3
"""Number of times that an image may be lost with a decoder that was decoding no image. After the second time the image
is fetched while no other image is that was ever lost, so the third time is its own fault if the decoder had no other
image."""

MAX_LOSSES_IN_COMPANY = 6
"""The same number where the decoder had images that were never lost before. One of them may be the cause, but hardly
four times in a row."""


class SquareMaker:
    """Has a square made of each row's image. Create it in the event loop of `fetcher`.

    At most `most_under_way` rows are begun and not settled. `put` is called with a row's position and the slot of its
    square, `fail` with the position and the reason why there is none, and `end` with an error that ends the chunk. What
    `put` and `fail` raise ends the chunk too: it goes to `end`, or to whoever waits for the decoders to fail.
    """

    def __init__(
        self,
        fetcher: ImageFetcher[Job],
        rows: Sequence[Row],
        *,
        most_under_way: int,
        put: Callable[[int, int], object],
        fail: Callable[[int, ImageFailed], object],
        end: Callable[[Exception], object],
    ) -> None:
        self._fetcher = fetcher
        self._task_count = min(most_under_way, len(rows))
        self._put_square, self._fail, self._end = put, fail, end
        self._tasks = asyncio.TaskGroup()
        self._ahead = fetcher.ahead(rows, most_under_way=most_under_way)
        self._later = fetcher.later(self._ahead, fail=self._fail_waiting)
        self._unsettled = len(rows)
        self._first_row = rows[0] if rows else None
        self._all_settled = asyncio.Event()
        self._large = LargeImages()
        self._suspects = asyncio.Condition()
        self._suspects_under_way = 0
        self._is_alone = False
        self.fetched = 0
        """Number of images that were fetched, without those that had to be fetched again."""

    async def settle_all(self) -> None:
        """Return once `put` or `fail` was called for each row."""
        if self._first_row is None:
            return
        try:
            await self._fetcher.prepare(self._first_row)
            async with self._tasks:
                for _ in range(self._task_count):
                    self._tasks.create_task(self._fetch_some())
                await self._all_settled.wait()
        finally:
            self._later.close()

    async def _fetch_some(self) -> None:
        """Fetch the image of one row after the other until no row is left. What follows does not hold this up."""
        try:
            while (row := await self._ahead.next()) is not None:
                try:
                    fetched = await self._fetcher.fetch(row)
                except (ImageFailed, Lost) as error:
                    self._settle_without_square(row, error)
                except MustWait as wait:
                    self._later.put_back(row, wait)
                else:
                    self.fetched += 1
                    fetched.image.when_decoded(partial(self._note_decoded, row, fetched))
        except Exception as error:  # noqa: BLE001 - handed on
            self._end(error)

    def _note_decoded(self, row: Row, fetched: Fetched[Job], decoded: Decoded) -> None:
        if isinstance(decoded, LargeImage):
            self._settle_later(row, self._slot_of(fetched))
            return
        fetched.release()
        if isinstance(decoded, int):
            self._put(row, decoded)
        else:
            self._settle_without_square(row, decoded)

    def _put(self, row: Row, slot: int) -> None:
        self._put_square(row.position, slot)
        self._note_settled(row)

    def _settle_without_square(self, row: Row, error: ImageFailed | Lost) -> None:
        if isinstance(error, Lost):
            self._settle_later(row, self._slot_after(error, row))
        else:
            self._fail(row.position, error)
            self._note_settled(row)

    def _fail_waiting(self, row: Row, failed: ImageFailed) -> None:
        """Settle a row that is not under way as failed."""
        try:
            self._fail(row.position, failed)
            self._forget(row)
        except Exception as error:  # noqa: BLE001 - handed on
            self._end(error)

    def _note_settled(self, row: Row) -> None:
        self._ahead.note_settled(row)
        self._forget(row)

    def _forget(self, row: Row) -> None:
        self._fetcher.forget(row)
        self._unsettled -= 1
        if not self._unsettled:
            self._all_settled.set()

    # What few images need

    def _settle_later(self, row: Row, slot: Awaitable[int]) -> None:
        self._tasks.create_task(self._settle(row, slot))

    async def _settle(self, row: Row, slot: Awaitable[int]) -> None:
        try:
            try:
                found = await slot
            except (ImageFailed, Lost) as error:
                self._settle_without_square(row, error)
            else:
                self._put(row, found)
        except Exception as error:  # noqa: BLE001 - handed on
            self._end(error)

    async def _slot_after(self, lost: Lost, row: Row) -> int:
        """Fetch and decode an image again that was lost with its decoder, and return the slot of its square."""
        blames = crashes = losses = 0
        while True:
            blames += lost.is_blamed
            crashes += lost.is_blamed and not lost.is_out_of_time
            losses += lost.is_suspect
            most_losses = MAX_LOSSES_IN_COMPANY if lost.had_company else MAX_LOSSES
            if blames >= MAX_BLAMES or losses >= most_losses:
                raise error_of(lost) from lost
            try:
                return await self._slot_again(row, alone=crashes > 0 or losses >= MAX_LOSSES - 1)
            except Lost as again:
                lost = again

    async def _slot_again(self, row: Row, *, alone: bool) -> int:
        """Fetch and decode a lost image. While one is `alone`, no other lost image is under way, which may kill its
        decoder. It waits for its site here, as one of few, and holds up no other one meanwhile."""
        while True:
            async with self._suspects:
                await self._suspects.wait_for(lambda: not (self._is_alone or (alone and self._suspects_under_way)))
                self._suspects_under_way += 1
                self._is_alone = alone
            try:
                return await self._slot_of(await self._fetcher.fetch(row))
            except MustWait as wait:
                pause = self._later.pause_seconds(row, wait)
            finally:
                async with self._suspects:
                    self._suspects_under_way -= 1
                    self._is_alone = False
                    self._suspects.notify_all()
            await asyncio.sleep(pause)

    async def _slot_of(self, fetched: Fetched[Job]) -> int:
        """Return the slot of the square. No other large image is decoded at the same time as a large one."""
        try:
            return await self._large.slot_of(fetched.image)
        finally:
            fetched.release()
