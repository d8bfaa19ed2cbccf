"""python -m worker.fetch.proxy_relay: passes the decoders' requests on to a proxy that needs a password.

A decoder must not know the password, because an image could take the decoder over. So the decoders log in here with a
password that is worth nothing elsewhere, and the relay puts the proxy's password into each request. It passes on only
what cannot make the proxy send that password anywhere: GETs without a body, and CONNECT.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import NamedTuple

from common.certificates import client_context
from common.process.thread_name import name_thread
from worker.child_process import die_with_parent

MAX_HEAD_BYTES = 64 << 10
"""Size of the largest head of a request, in bytes. Proxies take no larger ones."""

PIECE_BYTES = 256 << 10
"""Largest number of bytes that are copied at once. Each connection holds at most some of these in memory."""

BACKLOG = 1024
"""Number of connections that may wait to be accepted, as while the relay starts."""

HALF_CLOSED_SECONDS = 10
"""Longest time in seconds for the rest of an answer to a client that has closed its sending side."""

_REQUEST_LINE = re.compile(rb"(?:GET http://|CONNECT )[!-~]+ HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z-]+):[ \t]*([ -~\t\x80-\xff]*)")
_PASSED_HEADERS = {b"accept", b"accept-encoding", b"authorization", b"host", b"proxy-connection", b"user-agent"}
"""Names of the headers that a request may have. A header that announces a body or another protocol would make the proxy
take the next head, with the password, for something to pass on to the server."""


class Route(NamedTuple):
    """One proxy, and the socket at which the relay listens for its clients."""

    descriptor: int
    """File descriptor of the listening socket."""
    host: str
    port: int
    is_tls: bool
    """Whether the proxy itself is asked over TLS."""
    client_authorization: str
    """Value of the header Proxy-Authorization that the clients must send."""
    proxy_authorization: str
    """Value of the header Proxy-Authorization that the proxy is sent instead."""


class Plan(NamedTuple):
    """What the relay reads from its standard input, as a line of JSON, because others can read a command line."""

    connect_seconds: float
    routes: list[Route]


class Refused(Exception):
    """The relay does not pass a request on. The text is the status line's."""


class _Peer(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Close the connection in such a way that the peer does not take an answer for complete."""
        with suppress(OSError):  # the peer has closed it
            connection = self.writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Relay:
    """The relay to one proxy."""

    def __init__(self, route: Route, *, connect_seconds: float) -> None:
        self._route = route
        self._tls = client_context() if route.is_tls else None
        self._connect_seconds = connect_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the requests of one connection, and their answers, until either side closes it."""
        client = _Peer(reader, writer)
        try:
            head = await self._next_head(reader)
            if head:
                proxy = await self._connect(head)
                await self._relay(head, client, proxy)
        except Refused as refused:
            writer.write(f"HTTP/1.1 {refused}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        except OSError:
            client.reset()
        finally:
            writer.close()

    async def _connect(self, head: bytes) -> _Peer:
        """Raises Refused or OSError if the proxy cannot be reached."""
        try:
            async with asyncio.timeout(self._connect_seconds):
                return _Peer(
                    *await asyncio.open_connection(
                        self._route.host, self._route.port, ssl=self._tls, limit=MAX_HEAD_BYTES
                    )
                )
        except OSError:
            if head.startswith(b"GET "):
                raise  # A status would be taken for that of the server.
            raise Refused("502 Bad Gateway") from None

    async def _relay(self, head: bytes, client: _Peer, proxy: _Peer) -> None:
        """Raises OSError if the client does not get the whole answer."""
        try:
            async with asyncio.TaskGroup() as directions:
                requests = directions.create_task(self._pass_requests(head, client.reader, proxy.writer))
                answers = directions.create_task(_copy(proxy.reader, client.writer))
                await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
                if not answers.done() and proxy.writer.can_write_eof():
                    proxy.writer.write_eof()
                    await asyncio.wait([answers], timeout=HALF_CLOSED_SECONDS)
                requests.cancel()
                answers.cancel()
        except* (OSError, Refused):
            raise ConnectionResetError from None
        finally:
            proxy.writer.transport.abort()
        if answers.cancelled():
            raise ConnectionResetError

    async def _pass_requests(self, head: bytes, client: asyncio.StreamReader, proxy: asyncio.StreamWriter) -> None:
        while head:
            proxy.write(head)
            await proxy.drain()
            if head.startswith(b"CONNECT "):
                # If the proxy refuses, the client closes the connection.
                await _copy(client, proxy)
                break
            head = await self._next_head(client)

    async def _next_head(self, client: asyncio.StreamReader) -> bytes:
        """Return the next request for the proxy, nothing after the last one. Raises Refused."""
        try:
            head = await client.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError:
            raise Refused("431 Request Header Fields Too Large") from None
        return self._with_password(head)

    def _with_password(self, head: bytes) -> bytes:
        """Return the head with the proxy's password in place of the client's. Raises Refused."""
        request, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        if not _REQUEST_LINE.fullmatch(request):
            raise Refused("400 Bad Request")
        given, passed = b"", [request]
        for line in lines:
            header = _HEADER.fullmatch(line)
            name = header[1].lower() if header else b""
            if header and name == b"proxy-authorization":
                given = header[2]
            elif name in _PASSED_HEADERS:
                passed.append(line)
            else:
                raise Refused("400 Bad Request")
        if not hmac.compare_digest(given, self._route.client_authorization.encode()):
            raise Refused("407 Proxy Authentication Required")
        passed.append(b"Proxy-Authorization: " + self._route.proxy_authorization.encode())
        return b"\r\n".join(passed) + b"\r\n\r\n"


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the source ends, no faster than the target takes it."""
    while piece := await source.read(PIECE_BYTES):
        target.write(piece)
        await target.drain()


async def serve(plan: Plan) -> None:
    """Serve all routes until the standard input ends."""
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), is_over.set)
    servers = [
        await asyncio.start_server(
            Relay(route, connect_seconds=plan.connect_seconds).serve,
            sock=socket.socket(fileno=route.descriptor),
            limit=MAX_HEAD_BYTES,
            backlog=BACKLOG,
        )
        for route in plan.routes
    ]
    await is_over.wait()
    for server in servers:
        server.close()
    os._exit(os.EX_OK)  # Nothing is left to do. The kernel closes the connections.


def main(worker_process: str) -> None:
    """Serve the worker with this process id until it ends, or closes this process's standard input."""
    die_with_parent(int(worker_process))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker too, and the worker ends the relay
    name_thread("proxy-relay")
    # All decoders' connections end here, twice.
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    connect_seconds, routes = json.loads(sys.stdin.readline())
    asyncio.run(serve(Plan(connect_seconds, [Route(*route) for route in routes])))


if __name__ == "__main__":
    main(*sys.argv[1:])
