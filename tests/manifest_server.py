"""A real HTTP server for manifests, with ranges and ETags. It counts the bytes it sends and misbehaves on command."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

from tests.serving import QuietServer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SEND_BYTES = 1 << 20


@dataclass
class ManifestServer:
    """The files of a server and its behaviour. A test may change both between requests."""

    url: str = ""
    files: dict[str, bytes | Path] = field(default_factory=dict, repr=False)
    """The content, or the file that holds it, by path."""

    ranges: bool = True
    etag: bool = True
    last_modified: str = ""
    chunked: bool = False
    """Send the body in chunks, without a Content-Length."""
    content_encoding: str = ""
    credentials: str = ""
    """The Authorization header that requests must have. Other requests get status 401."""
    statuses: list[int] = field(default_factory=list)
    """The statuses of the next answers, in order. 0 stands for the correct answer."""
    always: int = 0
    """The status of every answer, if it is not 0."""
    retry_after: str = ""
    redirect_to: str = ""
    breaks: list[int] = field(default_factory=list)
    """The numbers of bytes of the next bodies after which the connection is dropped, in order. -1 stands for never."""
    shift: int = 0
    """The number of bytes by which ranges begin too late."""

    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list, repr=False)
    """The path with its query, and the headers by their names in Title-Case, of every request."""
    bytes_sent: int = 0
    """The number of bytes in all bodies that were sent."""
    connections: set[object] = field(default_factory=set, repr=False)
    """The connections that are open now."""

    def publish(self, name: str, content: bytes | Path) -> str:
        """Serve `content` as `/name` from now on and return its URL."""
        self.files[f"/{name}"] = content
        return f"{self.url}/{name}"

    def etag_of(self, name: str) -> str:
        """Return the ETag of `/name`, without quotes."""
        return _etag(self.files[f"/{name}"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: ManifestServer

    def setup(self) -> None:
        super().setup()
        self.behaviour.connections.add(self)

    def finish(self) -> None:
        self.behaviour.connections.discard(self)
        super().finish()

    def do_GET(self) -> None:
        server = self.behaviour
        server.requests.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        status = server.always or (server.statuses.pop(0) if server.statuses else 0)
        content = server.files.get(self.path.partition("?")[0])
        if server.credentials and self.headers.get("Authorization") != server.credentials:
            status = HTTPStatus.UNAUTHORIZED
        if server.redirect_to and not status:
            self._refuse(HTTPStatus.FOUND, Location=server.redirect_to)
        elif status:
            self._refuse(status, **({"Retry-After": server.retry_after} if server.retry_after else {}))
        elif content is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send(content)

    def _send(self, content: bytes | Path) -> None:
        server = self.behaviour
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, size, HTTPStatus.OK
        if asked and server.ranges:
            start = int(asked[1]) + server.shift
            end = min(size, int(asked[2]) + 1) if asked[2] else size
            if start >= size:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, **{"Content-Range": f"bytes */{size}"})
                return
            status = HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if server.etag:
            self.send_header("ETag", f'"{_etag(content)}"')
        if server.last_modified:
            self.send_header("Last-Modified", server.last_modified)
        if server.content_encoding:
            self.send_header("Content-Encoding", server.content_encoding)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self._send_body(content, start, end)

    def _send_body(self, content: bytes | Path, start: int, end: int) -> None:
        server = self.behaviour
        allowed = server.breaks.pop(0) if server.breaks else -1
        stop = end if allowed < 0 else min(end, start + allowed)
        while start < stop:
            block = _read(content, start, min(SEND_BYTES, stop - start))
            # Counted first, because the client may ask for the count as soon as it has the bytes.
            server.bytes_sent += len(block)
            framed = b"%x\r\n%b\r\n" % (len(block), block) if server.chunked else block
            try:
                self.wfile.write(framed)
            except OSError:  # the client has read enough
                self.close_connection = True
                return
            start += len(block)
        if stop < end:
            self.close_connection = True
        elif server.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing: `requests` holds every request."""


def _read(content: bytes | Path, start: int, length: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + length]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _etag(content: bytes | Path) -> str:
    if isinstance(content, Path):
        status = content.stat()
        return f"{status.st_size:x}-{status.st_mtime_ns:x}"
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@contextmanager
def manifest_server() -> Iterator[ManifestServer]:
    """Run a server on a free port of 127.0.0.1 until the block ends."""
    behaviour = ManifestServer()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = QuietServer(("127.0.0.1", 0), handler)
    behaviour.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield behaviour
