"""The proxies as a decoder hears of them: the address of a relay stands for a proxy that needs a password.

The relay (`worker.fetch.proxy_relay`) is a process that has the password, so that no decoder needs it. Without such a
proxy there is no relay.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from common.errors import ResourceExhausted
from common.proxies import EnvironmentProxies, basic_authorization
from worker.child_process import clean_environment
from worker.fetch.proxy_relay import BACKLOG, Plan, Route

if TYPE_CHECKING:
    from common.proxies import Proxy

RELAY_USER = "decoder"
"""The user as whom a decoder logs in at the relay."""

GRACE_SECONDS = 2
"""Time in seconds that the relay has to end before it is killed."""


class RelayedProxies:
    """The proxies of the environment, and the relay to those of them that need a password.

    Create it in a thread that lives as long as the worker: Linux ends the relay together with that thread. Raises
    SettingsError if the environment names a proxy that is not an http or https URL.
    """

    def __init__(self, *, connect_timeout_seconds: float) -> None:
        self._proxies = EnvironmentProxies()
        self._relays: dict[Proxy, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        if relayed := self._proxies.with_password():
            self._start(relayed, connect_timeout_seconds)

    def _start(self, relayed: list[Proxy], connect_timeout_seconds: float) -> None:
        listening, routes = [], []
        for proxy in relayed:
            # Only this pod reaches the loopback address. The password keeps its other containers out, and other users
            # where no pod is.
            listening.append(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))
            password = secrets.token_urlsafe(16)
            self._relays[proxy] = f"http://{RELAY_USER}:{password}@127.0.0.1:{listening[-1].getsockname()[1]}"
            routes.append(
                Route(
                    listening[-1].fileno(),
                    host=proxy.host,
                    port=proxy.port,
                    is_tls=proxy.scheme == "https",
                    client_authorization=basic_authorization(RELAY_USER, password),
                    proxy_authorization=proxy.authorization,
                )
            )
        read_end, self._input = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a part of this program
                [sys.executable, "-m", "worker.fetch.proxy_relay", str(os.getpid())],
                pass_fds=[each.fileno() for each in listening],
                stdin=read_end,
                env=clean_environment(),
            )
        finally:
            os.close(read_end)
            for each in listening:
                each.close()
        with suppress(BrokenPipeError):  # it has ended, which `address_for` tells
            os.write(self._input, f"{json.dumps(Plan(connect_timeout_seconds, routes))}\n".encode())

    def address_for(self, *, scheme: str, host: str, port: int) -> str:
        """Return the proxy for a request to a server as a URL, an empty text for a direct connection.

        Raises ResourceExhausted if the proxy needs the relay, and the relay has ended.
        """
        proxy = self._proxies.proxy_for(scheme=scheme, host=host, port=port)
        if proxy is None:
            return ""
        if proxy not in self._relays or self._process is None:
            return proxy.url
        if (exit_code := self._process.poll()) is not None:
            raise ResourceExhausted(f"the relay to the proxy has ended with exit code {exit_code}")
        return self._relays[proxy]

    def close(self) -> None:
        """End the relay, if there is one."""
        if self._process is None:
            return
        os.close(self._input)
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
