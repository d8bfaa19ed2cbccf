"""Reads the body of an answer, within the budget of bytes in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.format.reasons import Reason
from worker.fetch.byte_budget import GrowingReservation
from worker.fetch.failures import Unanswered
from worker.rows import ImageFailed

if TYPE_CHECKING:
    import asyncio

    import aiohttp

    from worker.fetch.byte_budget import ByteBudget

FIRST_RESERVATION_BYTES = 1 << 20
"""The bytes that are reserved for a body of unknown length before its first byte."""


class Body(NamedTuple):
    """An image's bytes. Whoever holds them releases `reserved` bytes of the budget afterwards."""

    data: bytes | bytearray
    reserved: int


async def read_body(
    response: aiohttp.ClientResponse, budget: ByteBudget, *, max_bytes: int, deadline: asyncio.Timeout
) -> Body:
    """Return the answer's body. Its bytes are reserved before they are read, and the wait moves the `deadline`.

    Raises ImageFailed (too_large), Unanswered, and the errors of aiohttp.
    """
    length = response.content_length
    if length is None:
        return await _read_unknown_length(response.content, budget, max_bytes=max_bytes, deadline=deadline)
    if length > max_bytes:
        raise ImageFailed(Reason.TOO_LARGE, f"{length} bytes announced, the limit is {max_bytes}")
    await budget.reserve(length, deadline=deadline)
    try:
        return Body(await _read_known_length(response.content, length), length)
    except BaseException:
        budget.release(length)
        raise


async def _read_known_length(content: aiohttp.StreamReader, length: int) -> bytes | bytearray:
    piece = await content.readany()
    if len(piece) == length:
        return piece  # the whole body in one piece needs no copy
    body = bytearray(length)
    filled = 0
    while piece:
        body[filled : filled + len(piece)] = piece
        filled += len(piece)
        piece = await content.readany()
    if filled != length:
        detail = f"the answer ended after {filled} of {length} bytes"
        raise Unanswered(Reason.CONNECTION_FAILED, detail, may_pass=True)
    return body


async def _read_unknown_length(
    content: aiohttp.StreamReader, budget: ByteBudget, *, max_bytes: int, deadline: asyncio.Timeout
) -> Body:
    body = bytearray()
    first_bytes = min(FIRST_RESERVATION_BYTES, max_bytes)
    async with GrowingReservation(
        budget, first_bytes=first_bytes, most_bytes=max_bytes, deadline=deadline
    ) as reservation:
        while piece := await content.readany():
            if len(body) + len(piece) > max_bytes:
                raise ImageFailed(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
            body += piece
            await reservation.cover(len(body))
        reservation.shrink(len(body))
    return Body(body, reservation.size)
