"""A real HTTP proxy on loopback that only makes tunnels (CONNECT), and wants a user and a password.

with connect_proxy("ann", "secret") as proxy:
    proxy.url, proxy.asked_for
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from common.proxies import basic_authorization
from tests.serving import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator


class ConnectProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, user: str, password: str, *, tls: ssl.SSLContext | None, upstream: tuple[str, int] | None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = upstream
        self.authorization = basic_authorization(user, password)
        self.url = f"{'https' if tls else 'http'}://{user}:{password}@127.0.0.1:{self.server_port}"
        self.asked_for: list[str] = []
        """The servers to which tunnels were made, as `host:port`."""


class _Handler(BaseHTTPRequestHandler):
    server: ConnectProxy
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if self.headers["Proxy-Authorization"] != self.server.authorization:
            self.send_error(407)
            return
        self.server.asked_for.append(self.path)
        host, _, port = self.path.rpartition(":")
        with socket.create_connection(self.server.upstream or (host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True).start()
            _copy(self.connection, upstream)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def connect_proxy(
    user: str, password: str, *, tls: ssl.SSLContext | None = None, upstream: tuple[str, int] | None = None
) -> Iterator[ConnectProxy]:
    """Run the proxy until the block ends. With `tls`, clients reach the proxy itself over TLS.

    All tunnels lead to `upstream`, if it is given, whatever server is asked for.
    """
    proxy = ConnectProxy(user, password, tls=tls, upstream=upstream)
    with serving(proxy):
        yield proxy
