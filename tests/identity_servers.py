"""What gives credentials to pods: a metadata service, an agent of the node, and an identity service (STS).

Each is an HTTP server on loopback that answers as the real one does, or is not there yet:

    with late(2, lambda port: metadata_service(region="eu-west-3", port=port)) as url:
        program(AWS_EC2_METADATA_SERVICE_ENDPOINT=url)
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.serving import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Respond = Callable[[str, str], tuple[int, str]]
    """Takes a request's method and path, and returns status and body."""


class IdentityServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, respond: Respond, *, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.respond = respond
        self.url = f"https://localhost:{self.server_port}" if tls else f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        """The path of each request."""


class _Handler(BaseHTTPRequestHandler):
    server: IdentityServer
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(self.path)
        status, body = self.server.respond(self.command, self.path)
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body.encode())
        self.close_connection = True

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


def credentials(*, seconds: float = 3600) -> dict[str, str]:
    """Return temporary credentials that are valid for some seconds."""
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "Code": "Success",
        "AccessKeyId": "ASIAEXAMPLE",
        "SecretAccessKey": "wJalr/temporary+KEY",
        "Token": "session-token",
        "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@contextmanager
def identity_server(respond: Respond, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[IdentityServer]:
    server = IdentityServer(respond, port=port, tls=tls)
    with serving(server):
        yield server


def metadata_service(*, region: str = "", port: int = 0) -> AbstractContextManager[IdentityServer]:
    """Return the metadata service of an EC2 instance with a role."""

    def respond(method: str, path: str) -> tuple[int, str]:
        answers = {
            "/latest/api/token": "token" if method == "PUT" else "",
            "/latest/meta-data/iam/security-credentials/": "role",
            "/latest/meta-data/iam/security-credentials/role": json.dumps(credentials()),
            "/latest/meta-data/placement/availability-zone/": f"{region}a" if region else "",
        }
        return (200, answers[path]) if answers.get(path) else (404, "")

    return identity_server(respond, port=port)


def node_agent(
    *, seconds: float = 3600, port: int = 0, tls: ssl.SSLContext | None = None
) -> AbstractContextManager[IdentityServer]:
    """Return the agent of a node, as that of EKS Pod Identity, whose credentials are valid for some seconds."""
    return identity_server(lambda *_: (200, json.dumps(credentials(seconds=seconds))), port=port, tls=tls)


@contextmanager
def late(seconds: float, start: Callable[[int], AbstractContextManager[IdentityServer]]) -> Iterator[str]:
    """Yield the URL of a server that refuses connections for some seconds, and then runs until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    is_over = threading.Event()

    def run() -> None:
        if not is_over.wait(seconds):
            with start(port):
                is_over.wait()

    thread = threading.Thread(target=run, name="late-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        is_over.set()
        thread.join()
