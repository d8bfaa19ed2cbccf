"""One image on its way through a decoder."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from worker.decoders.link import DecodeLarge, Grant
from worker.fetch.transport import Answered, Broken
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.decoders.link import Order
    from worker.fetch.byte_budget import Reservation
    from worker.fetch.transport import Get, ReadFile

Outcome: TypeAlias = Answered | Broken

_OUT_OF_TIME = {signal.SIGPROF, signal.SIGALRM}
"""Signals of the timers that a decoder sets for each image."""


class Lost(Exception):
    """The decoder died with this image. Another decoder must begin with it again."""

    def __init__(self, exit_code: int, *, is_blamed: bool, is_suspect: bool, had_company: bool) -> None:
        super().__init__(f"a decoder died of {cause(exit_code)}")
        self.exit_code = exit_code
        """The decoder's exit code, or the negative number of the signal that ended it."""
        self.is_blamed = is_blamed
        """Whether the decoder died while it decoded this image."""
        self.is_suspect = is_suspect
        """Whether the decoder died while it decoded no image, so that any image that it fetched may be the cause."""
        self.had_company = had_company
        """Whether the decoder had other images too."""

    @property
    def is_out_of_time(self) -> bool:
        """Whether a time limit of the image that was decoded ended the decoder."""
        return -self.exit_code in _OUT_OF_TIME


Decoded: TypeAlias = int | ImageFailed | LargeImage | Lost
"""The slot of the square, or what came instead."""


class Job:
    """What a decoder does with one image. All methods belong to the event loop.

    `send` sends an order to the decoder.
    """

    def __init__(
        self,
        number: int,
        order: Get | ReadFile,
        reservation: Reservation | None,
        *,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Order], object],
    ) -> None:
        self.number = number
        self.order = order
        self.length = 0
        self.fetched: asyncio.Future[Outcome | None] = loop.create_future()
        """None once all bytes of the image have arrived, or how the request ended. Raises Lost."""
        self._reservation = reservation
        self._send = send
        self._growth: asyncio.Task[None] | None = None
        self._decoded: Decoded | None = None
        self._tell: Callable[[Decoded], object] | None = None
        self._is_abandoned = False

    # A callback and no future, because every image waits for this.

    def when_decoded(self, tell: Callable[[Decoded], object]) -> None:
        """Call `tell` once, with the slot that holds the square or with what came instead: an ImageFailed, a Lost, or a
        LargeImage if the image is large and its turn has not come."""
        if self._decoded is None:
            self._tell = tell
        else:
            tell(self._decoded)

    async def slot(self) -> int:
        """Return the slot that holds the square. Raises what comes instead."""
        decoded: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        self.when_decoded(partial(_set, decoded))
        outcome = await decoded
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def slot_of_large(self) -> int:
        """Have the image decoded although it is a large one. Raises ImageFailed and Lost."""
        if isinstance(self._decoded, LargeImage):
            self._decoded = None
            self._send(DecodeLarge(self.number))
        return await self.slot()

    def note_need(self, size: int, *, is_first: bool) -> None:
        """Let the body grow as soon as the budget allows it."""
        reservation = self._reservation
        if reservation is None:
            raise ValueError("a decoder asks for bytes of an image that may have none")
        if self.fetched.done():
            return

        async def grow() -> None:
            await reservation.cover(size, is_first=is_first)
            self._send(Grant(self.number, reservation.size))

        self._growth = asyncio.create_task(grow())

    def note_fetched(self, length: int) -> None:
        self.length = length
        self._end_request(None)

    def note_ended(self, outcome: Outcome) -> None:
        self._end_request(outcome)

    def _end_request(self, outcome: Outcome | None) -> None:
        self._stop_growing()
        if not self.fetched.done():
            self.fetched.set_result(outcome)

    def note_decoded(self, decoded: Decoded) -> bool:
        """Note the slot of the square, or why there is none. Return whether anybody waits for it."""
        if self._is_abandoned:
            return False
        self._decoded = decoded
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(decoded)
        return True

    def note_lost(self, lost: Lost) -> None:
        self._stop_growing()
        if not self.fetched.done():
            self.fetched.set_exception(lost)
            self.fetched.exception()  # asyncio would complain of an error that nobody awaits, as when the pipeline ends
        self.note_decoded(lost)

    def abandon(self) -> None:
        """Let the image hold no more bytes and no slot, because nobody waits for it."""
        self._stop_growing()
        self._is_abandoned = True

    def _stop_growing(self) -> None:
        if self._growth is not None:
            self._growth.cancel()


def _set(future: asyncio.Future[Decoded], decoded: Decoded) -> None:
    if not future.done():  # else its task was cancelled
        future.set_result(decoded)


def cause(exit_code: int) -> str:
    """Return how a process ended, as a text."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
