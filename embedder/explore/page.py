"""The server of the page: where it listens, how it is opened, and how it ends."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

from common.errors import SettingsError
from common.parallel import begin
from embedder.explore.application import make_application
from embedder.explore.guard import Guard, Secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedder.explore.explorer import Explorer

LOOPBACK = "127.0.0.1"


class Page:
    """A server on loopback alone, at one port. It listens once it is made, and answers while `serve` runs."""

    def __init__(self, *, port: int) -> None:
        """Raises SettingsError when the port is taken or may not be used."""
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listening.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            self._listening.close()
            said = getattr(error, "strerror", None) or error
            raise SettingsError(
                f"--port is {port}: {said}; choose another port, or leave it out to get a free one"
            ) from error
        self._listening.listen()
        self._secrets = Secrets()
        self.port: int = self._listening.getsockname()[1]
        self._server: uvicorn.Server | None = None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}{self._secrets.path}"

    @property
    def address_once(self) -> str:
        """An address that leads to the page once, for the command line of a browser."""
        return f"http://{LOOPBACK}:{self.port}{self._secrets.once}"

    def serve(self, explorer: Explorer, *, on_start: Callable[[], object] = lambda: None) -> None:
        """Answer until SIGINT or SIGTERM, whose handlers are then called as if they had come at that time."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                Guard(make_application(explorer), self._secrets, port=self.port),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                # The application logs its own errors; the server would log pictures that are on their way at the end.
                log_level="critical",
                timeout_graceful_shutdown=1,
            )
        )
        on_start()
        try:
            self._server.run(sockets=[self._listening])
        finally:
            self._listening.close()

    def stop(self) -> None:
        """End `serve`, from any thread."""
        if self._server is not None:
            self._server.should_exit = True


def open_browser(address: str) -> bool:
    """Open the address in a browser if this machine has a screen, and return whether it has."""
    has_screen = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if has_screen:
        # Some browsers return when they are closed.
        begin("browser", lambda: webbrowser.open(address))
    return has_screen
