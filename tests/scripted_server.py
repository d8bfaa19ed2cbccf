"""A server on loopback that answers each path with fixed bytes, correct HTTP or not, and counts its connections.

    with scripted_server() as server:
        server.on("/a.jpg", b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nfour")
        server.url("/a.jpg"), server.lines, server.connection_count

It knows no HTTP beyond the end of a request, so it can send what no library would send. `tests.image_server` is the
server for ordinary answers.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence


class Then(Enum):
    """What follows the answer."""

    KEEP = "keep"
    """The connection waits for the next request."""
    CLOSE = "close"
    STALL = "stall"
    """The connection stays open, and nothing follows."""
    REPEAT = "repeat"
    """The last piece is sent again and again."""


class _Answer(NamedTuple):
    pieces: Sequence[bytes]
    then: Then
    pause_seconds: float


NOT_FOUND = _Answer([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], Then.KEEP, 0)


class ScriptedServer:
    """Set the answers before the requests begin, and read the requests after they are over."""

    def __init__(self) -> None:
        self.origin = ""
        self.port = 0
        self.requests: list[bytes] = []
        """The head of each request, as it arrived."""
        self.connection_count = 0
        """Number of connections, those without a request and those whose TLS handshake failed included."""
        self.ended = threading.Event()
        self._answers: dict[str, _Answer] = {}

    def on(self, path: str, *pieces: bytes, then: Then = Then.KEEP, pause_seconds: float = 0) -> str:
        """Set the answer for a path with its query, and return its URL. There is a pause before each further piece.

        The answer for any other path is 404.
        """
        self._answers[path] = _Answer(pieces, then, pause_seconds)
        return self.url(path)

    def url(self, path: str) -> str:
        return self.origin + path

    @property
    def lines(self) -> list[str]:
        """The first line of each request."""
        return [head.partition(b"\r\n")[0].decode("latin-1") for head in self.requests]

    def handle(self, connection: socket.socket) -> None:
        received = b""
        while True:
            head, end, received = received.partition(b"\r\n\r\n")
            if not end:
                more = connection.recv(65_536)
                if not more:
                    return
                received = head + more
                continue
            self.requests.append(head)
            target = head.split(b" ", 2)[1].decode("latin-1")
            if not self._answer(connection, self._answers.get(target, NOT_FOUND)):
                return

    def _answer(self, connection: socket.socket, answer: _Answer) -> bool:
        """Send the answer. Return whether the connection is for further requests."""
        for number, piece in enumerate(answer.pieces):
            if number:
                time.sleep(answer.pause_seconds)
            connection.sendall(piece)
        if answer.then is Then.STALL:
            self.ended.wait()
        while answer.then is Then.REPEAT:
            connection.sendall(answer.pieces[-1])
        return answer.then is Then.KEEP


@contextmanager
def scripted_server(
    *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[ScriptedServer]:
    """Run a server, with a thread for each connection, until the block ends."""
    scripted = ScriptedServer()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            scripted.connection_count += 1
            connection: socket.socket = self.request
            with suppress(OSError):  # the client has gone
                if tls is None:
                    scripted.handle(connection)
                else:
                    with tls.wrap_socket(connection, server_side=True) as encrypted:
                        scripted.handle(encrypted)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 128

    with Server((host, port), Handler) as server:
        scripted.port = server.server_address[1]
        scripted.origin = f"{'https' if tls else 'http'}://{host}:{scripted.port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="scripted-server")
        thread.start()
        try:
            yield scripted
        finally:
            scripted.ended.set()
            server.shutdown()
            thread.join()


@contextmanager
def deaf_address(port: int = 0) -> Iterator[tuple[str, int]]:
    """Yield an address and a port that never accept a connection, like a host behind a firewall that drops packets."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.2", port))
        listening.listen(0)
        place = listening.getsockname()
        # The kernel drops what comes after the queue is full.
        for _ in range(4):
            each = waiting.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(place)
        time.sleep(0.1)
        yield place
