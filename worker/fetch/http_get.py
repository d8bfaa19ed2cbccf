"""One GET: its answer, or the kind of failure it is."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp

from common.errors import ResourceExhausted
from common.format.reasons import Reason
from worker.fetch.host_guard import ForbiddenAddress
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from yarl import URL

    from worker.fetch.byte_budget import ByteBudget

UNKNOWN_BYTES = 1 << 20
"""What a body of unknown length is taken to have until it has more."""

REDIRECTS = {301, 302, 303, 307, 308}
MAY_PASS = {407, 408, 425, 429, 500, 502, 503, 504, 511}

_REASONS = {
    404: Reason.NOT_FOUND,
    410: Reason.NOT_FOUND,
    401: Reason.ACCESS_DENIED,
    403: Reason.ACCESS_DENIED,
    451: Reason.ACCESS_DENIED,
    429: Reason.RATE_LIMITED,
}

_NO_SUCH_HOST = {socket.EAI_NONAME, socket.EAI_NODATA}
_OUR_OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TemporaryFailure(Exception):
    """What went wrong may pass, so the request is worth repeating."""

    def __init__(self, reason: Reason, detail: str, *, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.failure = ImageFailed(reason, detail)
        self.retry_after = retry_after
        """Seconds that the host asked to wait."""


class NotAsked(ImageFailed):
    """No request was made: the name does not exist or is refused. It says nothing about any host."""


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raise ImageFailed or TemporaryFailure unless the answer's status is 200."""
    status = response.status
    if status == 200:
        return
    reason = _REASONS.get(status) or (Reason.SERVER_ERROR if status >= 500 else Reason.HTTP_ERROR)
    if status not in MAY_PASS:
        raise ImageFailed(reason, str(status))
    wait = retry_after_seconds(response.headers.get("Retry-After", ""), now=lambda: datetime.now(UTC))
    raise TemporaryFailure(reason, str(status), retry_after=wait)


def retry_after_seconds(header: str, *, now: Callable[[], datetime]) -> float:
    """Return the seconds to wait that a Retry-After header asks for (RFC 9110, 10.2.3), 0 where it asks for none."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds())


async def read_body(
    response: aiohttp.ClientResponse, budget: ByteBudget, *, max_bytes: int, deadline: asyncio.Timeout
) -> tuple[bytes | bytearray, int]:
    """Return the answer's body and how many bytes of the budget it holds, to be given back by the caller.

    The budget is asked before the body is read, for the Content-Length; where the answer gives none, for more and more
    as it comes. Waiting for it moves the `deadline`. Raises ImageFailed (too_large), TemporaryFailure, and what aiohttp
    raises.
    """
    length = response.content_length
    if length is None:
        return await _read_until_end(response.content, budget, max_bytes=max_bytes, deadline=deadline)
    if length > max_bytes:
        raise ImageFailed(Reason.TOO_LARGE, f"{length} bytes announced, the limit is {max_bytes}")
    await _reserve(budget, length, deadline)
    try:
        return await _read_exactly(response.content, length), length
    except BaseException:
        budget.release(length)
        raise


async def _reserve(budget: ByteBudget, size: int, deadline: asyncio.Timeout) -> None:
    if not budget.try_reserve(size):
        async with _stopped(deadline):
            await budget.reserve(size)


@asynccontextmanager
async def _stopped(deadline: asyncio.Timeout) -> AsyncIterator[None]:
    """Move the deadline by what the block takes."""
    clock = asyncio.get_running_loop().time
    started, when = clock(), deadline.when()
    deadline.reschedule(None)
    yield
    deadline.reschedule(when + clock() - started if when is not None else None)


async def _read_exactly(content: aiohttp.StreamReader, length: int) -> bytes | bytearray:
    piece = await content.readany()
    if len(piece) == length:
        return piece  # it came in one piece, which need not be copied
    body = bytearray(length)
    filled = 0
    while piece:
        body[filled : filled + len(piece)] = piece
        filled += len(piece)
        piece = await content.readany()
    if filled != length:
        raise TemporaryFailure(Reason.CONNECTION_FAILED, f"{filled} bytes came of {length}")
    return body


async def _read_until_end(
    content: aiohttp.StreamReader, budget: ByteBudget, *, max_bytes: int, deadline: asyncio.Timeout
) -> tuple[bytearray, int]:
    body = bytearray()
    reserved = min(UNKNOWN_BYTES, max_bytes)
    await _reserve(budget, reserved, deadline)
    try:
        async with AsyncExitStack() as stack:
            is_beyond = False
            while piece := await content.readany():
                _append(body, piece, max_bytes=max_bytes)
                while len(body) > reserved:
                    more = min(reserved, max_bytes - reserved)
                    if is_beyond:
                        budget.grow_beyond(more)
                    elif not budget.try_grow(more):
                        async with _stopped(deadline):
                            await stack.enter_async_context(budget.beyond())
                        is_beyond = True
                        continue
                    reserved += more
    except BaseException:
        budget.release(reserved)
        raise
    budget.release(reserved - len(body))
    return body, len(body)


def _append(body: bytearray, piece: bytes, *, max_bytes: int) -> None:
    if len(body) + len(piece) > max_bytes:
        raise ImageFailed(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
    body += piece


@asynccontextmanager
async def classified_errors(url: URL) -> AsyncIterator[None]:
    """Turn what a request can raise into ImageFailed, TemporaryFailure, or ResourceExhausted where it is our fault."""
    try:
        yield
    except aiohttp.InvalidURL as error:
        raise NotAsked(Reason.INVALID_URL, "its host cannot be asked") from error
    except ForbiddenAddress as error:
        raise NotAsked(Reason.FORBIDDEN_HOST, str(error)) from error
    except TimeoutError as error:
        raise TemporaryFailure(Reason.TIMEOUT, f"{url.raw_host} {_timeout(error)}") from error
    except aiohttp.ClientConnectorCertificateError as error:
        why = getattr(error.certificate_error, "verify_message", "") or "not valid"
        raise ImageFailed(Reason.CONNECTION_FAILED, f"the certificate of {url.raw_host}: {why}") from error
    except aiohttp.ClientConnectorDNSError as error:
        if error.os_error.errno in _NO_SUCH_HOST:
            raise NotAsked(Reason.CONNECTION_FAILED, f"no such host: {url.raw_host}") from error
        raise TemporaryFailure(Reason.CONNECTION_FAILED, f"{url.raw_host} cannot be resolved now") from error
    except (aiohttp.ClientError, OSError) as error:
        if getattr(error, "errno", None) in _OUR_OWN_LIMITS:
            raise ResourceExhausted(
                f"no connection could be opened: {error}; lower EMBEDDER_FETCH_CONCURRENCY"
            ) from error
        raise TemporaryFailure(Reason.CONNECTION_FAILED, f"{url.raw_host}: {_what_broke(error)}") from error


def _timeout(error: TimeoutError) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "was not connected in time"
    return "sent nothing for too long" if isinstance(error, aiohttp.SocketTimeoutError) else "took too long"


def _what_broke(error: aiohttp.ClientError | OSError) -> str:
    # Not the error's own text: it may hold the whole URL, or what a hostile server sent.
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return "TLS failed"
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, "the connection failed") if number else "the connection failed"
