"""One image on its way through a decoder."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeAlias

from worker.fetch.transport import Answered, Broken, Get, ReadFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.byte_budget import Reservation

Outcome: TypeAlias = Answered | Broken


class Lost(Exception):
    """The decoder died with this image. Another decoder must begin with it again."""

    def __init__(self, exit_code: int, *, is_blamed: bool, is_suspect: bool) -> None:
        super().__init__(f"a decoder died of {cause(exit_code)}")
        self.exit_code = exit_code
        """The decoder's exit code, or the negative number of the signal that ended it."""
        self.is_blamed = is_blamed
        """Whether the decoder died while it decoded this image."""
        self.is_suspect = is_suspect
        """Whether the decoder died while it decoded no image, so that any image that it fetched may be the cause."""


class Job:
    """What a decoder does with one image. All methods belong to the event loop.

    `send_grant` sends the number of bytes that the body may have. `decode_large` sends the order to decode the image
    although it is large.
    """

    def __init__(
        self,
        number: int,
        order: Get | ReadFile,
        reservation: Reservation | None,
        *,
        send_grant: Callable[[int], object],
        decode_large: Callable[[], object],
    ) -> None:
        self.number = number
        self.order = order
        self.length = 0
        self._reservation = reservation
        self._send_grant = send_grant
        self._decode_large = decode_large
        self._growth: asyncio.Task[None] | None = None
        self._lost: Lost | None = None
        loop = asyncio.get_running_loop()
        self._fetched: asyncio.Future[Outcome | None] = loop.create_future()
        self._decoded: asyncio.Future[int] = loop.create_future()

    # Futures instead of coroutines, because every image waits for both.

    @property
    def fetched(self) -> asyncio.Future[Outcome | None]:
        """None once all bytes of the image have arrived, or how the request ended. Raises Lost."""
        return self._fetched

    @property
    def slot(self) -> asyncio.Future[int]:
        """The slot that holds the square.

        Raises ImageFailed, Lost, and LargeImage if the image is large and its turn has not come.
        """
        return self._decoded

    async def slot_of_large(self) -> int:
        """Have the image decoded although it is a large one. Raises ImageFailed and Lost."""
        if self._lost is not None:
            raise self._lost
        self._decoded = asyncio.get_running_loop().create_future()
        self._decode_large()
        return await self._decoded

    def note_need(self, size: int, *, is_first: bool) -> None:
        """Let the body grow as soon as the budget allows it."""
        reservation = self._reservation
        if reservation is None:
            raise ValueError("a decoder asks for bytes of an image that may have none")
        if self._fetched.done():
            return

        async def grow() -> None:
            await reservation.cover(size, is_first=is_first)
            self._send_grant(reservation.size)

        self._growth = asyncio.create_task(grow())

    def note_fetched(self, length: int) -> None:
        self.length = length
        self._stop_growing()
        _settle(self._fetched, None)

    def note_ended(self, outcome: Outcome) -> None:
        self._stop_growing()
        _settle(self._fetched, outcome)

    def note_decoded(self, slot: int) -> bool:
        """Return whether anybody waits for the square."""
        return _settle(self._decoded, slot)

    def note_failed(self, error: Exception) -> None:
        """Note why the image has no square."""
        _fail(self._decoded, error)

    def note_lost(self, lost: Lost) -> None:
        self._lost = lost
        self._stop_growing()
        _fail(self._fetched, lost)
        _fail(self._decoded, lost)

    def abandon(self) -> None:
        """Let the image hold no more bytes and no slot, because nobody waits for it."""
        self._stop_growing()
        self._decoded.cancel()

    def _stop_growing(self) -> None:
        if self._growth is not None:
            self._growth.cancel()


def _settle(
    future: asyncio.Future[object] | asyncio.Future[int] | asyncio.Future[Outcome | None], value: object
) -> bool:
    if future.done():
        return False
    future.set_result(value)  # type: ignore[arg-type]
    return True


def _fail(future: asyncio.Future[int] | asyncio.Future[Outcome | None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # asyncio would complain of an error that nobody awaits, as when the pipeline ends


def cause(exit_code: int) -> str:
    """Return how a process ended, as a text."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
