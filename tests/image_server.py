"""A real HTTP server on loopback that misbehaves on command, and counts its requests.

    with image_server() as server:
        server.on("/a.jpg", answer(b"..."))
        server.on("/b.jpg", first(2, answer(status=503), then=answer(b"...")))
        server.url("/a.jpg"), server.count("/a.jpg"), server.connection_count

A behaviour is a coroutine function that takes the request. A behaviour that hangs ends when the client's connection or
the server ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

Behaviour: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ImageServer:
    """Set the behaviours before the requests begin, and read the counts after the requests are over."""

    def __init__(self) -> None:
        self.origin = ""
        self.port = 0
        self.requests: list[web.BaseRequest] = []
        self.most_at_once: Counter[str] = Counter()
        """The largest number of requests in flight at the same time: for each path, and in total under ""."""
        self.stop: Callable[[], None] = lambda: None
        """Stop the server before its block ends, as if the host died."""
        self._behaviours: dict[str, Behaviour] = {}
        self._in_flight: Counter[str] = Counter()
        self._connections: set[object] = set()

    def on(self, path: str, behaviour: Behaviour) -> str:
        """Set the behaviour of a path (percent-encoded, without query), and return its URL."""
        self._behaviours[path] = behaviour
        return self.url(path)

    def url(self, path: str) -> str:
        return self.origin + path

    def count(self, path: str) -> int:
        """Return the number of requests for the path."""
        return sum(request.rel_url.raw_path == path for request in self.requests)

    @property
    def connection_count(self) -> int:
        """The number of connections with at least one request."""
        return len(self._connections)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.requests.append(request)
        if request.transport is not None:
            self._connections.add(request.transport.get_extra_info("peername"))
        for key in ("", path):
            self._in_flight[key] += 1
            self.most_at_once[key] = max(self.most_at_once[key], self._in_flight[key])
        try:
            return await self._behaviours.get(path, answer(status=404))(request)
        finally:
            for key in ("", path):
                self._in_flight[key] -= 1


@contextmanager
def image_server(*, tls: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
    """Run a server in its own thread until the block ends."""
    server = ImageServer()
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        runner = web.ServerRunner(web.Server(server.handle, handler_cancellation=True), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        server.port = runner.addresses[0][1]
        server.origin = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="image-server")

    def end() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)

    server.stop = end
    thread.start()
    try:
        if not started.wait(10):
            raise RuntimeError("the image server did not start")
        yield server
    finally:
        end()
        loop.close()


def answer(body: bytes = b"", *, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """Answer with this body, status and headers."""

    async def behave(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return behave


def redirect(location: str, *, status: int = 302) -> Behaviour:
    """Redirect to `location`, which is sent unchanged."""
    return raw(f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())


def chunked(body: bytes, *, piece: int = 1000) -> Behaviour:
    """Answer without Content-Length, in chunks of `piece` bytes."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(body), piece):
            await response.write(body[start : start + piece])
        await response.write_eof()
        return response

    return behave


def chunked_slowly(body: bytes, release: threading.Event) -> Behaviour:
    """Answer without Content-Length, and send the second half of the body only after `release` is set."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        while not release.is_set():
            await asyncio.sleep(0.01)
        await response.write(body[len(body) // 2 :])
        await response.write_eof()
        return response

    return behave


def endless() -> Behaviour:
    """Answer without Content-Length and never stop."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(bytes(65_536))

    return behave


def raw(data: bytes, *, then: str = "close") -> Behaviour:
    """Send these bytes unchanged. `then` is "close", "reset" or "stall"."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        await _send(request, data)
        return await _end(request, then)

    return behave


def partly(body: bytes, *, announced: int, then: str = "close") -> Behaviour:
    """Announce more bytes than are sent. `then` is "close", "reset" or "stall"."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % announced + body, then=then)


def reset() -> Behaviour:
    """Reset the connection without an answer."""
    return raw(b"", then="reset")


def stall() -> Behaviour:
    """Accept the request and never answer."""
    return raw(b"", then="stall")


def drip(body: bytes, *, every_seconds: float) -> Behaviour:
    """Send one byte after each pause, so that the body does not end in time."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        await _send(request, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            await _send(request, bytes([byte]))
            await asyncio.sleep(every_seconds)
        return await _end(request, "close")

    return behave


def first(count: int, failure: Behaviour, *, then: Behaviour) -> Behaviour:
    """Behave like `failure` for the first `count` requests, then like `then`."""
    left = count

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal left
        left -= 1
        return await (failure if left >= 0 else then)(request)

    return behave


def mortal(lives: int, death: Behaviour) -> Callable[[Behaviour], Behaviour]:
    """Return a function that gives behaviours one life: after `lives` requests in total, all behave like `death`."""
    left = lives

    def live(life: Behaviour) -> Behaviour:
        async def behave(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal left
            left -= 1
            return await (life if left >= 0 else death)(request)

        return behave

    return live


def held(release: threading.Event, *, then: Behaviour) -> Behaviour:
    """Wait for the event, then behave like `then`."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.to_thread(release.wait, 30)
        return await then(request)

    return behave


async def _send(request: web.BaseRequest, data: bytes) -> None:
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    request.transport.write(data)
    await asyncio.sleep(0)


async def _end(request: web.BaseRequest, how: str) -> NoReturn:
    if how == "stall":
        await asyncio.Event().wait()
    if request.transport is not None:
        request.transport.abort() if how == "reset" else request.transport.close()
    raise asyncio.CancelledError
