"""The frame of the doubles: an HTTP server that answers from a thread of this process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class QuietServer(ThreadingHTTPServer):
    """A server that says nothing of clients that close the connection before the end of an answer."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(server: ThreadingHTTPServer, *, before_end: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let the server answer until the block ends, then close it. `before_end` releases handlers that wait."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="double")
    thread.start()
    try:
        yield
    finally:
        before_end()
        server.shutdown()
        server.server_close()
        thread.join()
