"""URLs that have answered. Whether somebody still answers is asked of them, before an image is blamed for a failure
that may as well be the network's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

HOSTS = 256
"""Hosts of which one URL is remembered."""


class Request(NamedTuple):
    """What is asked, and how."""

    url: URL
    is_trusted: bool
    """Whether the URL's addresses need no check."""

    @property
    def slots_key(self) -> str:
        return self.url.raw_host or ""

    @property
    def host(self) -> str:
        """Return the host, with its port unless that is the scheme's: another port is another server."""
        return self.url.host_port_subcomponent or ""


class Witnesses:
    """The last URL that answered of each host, of the last HOSTS hosts."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}

    def note(self, request: Request) -> None:
        self._requests.pop(request.host, None)
        self._requests[request.host] = request
        if len(self._requests) > HOSTS:
            del self._requests[next(iter(self._requests))]

    def of(self, host: str) -> Request | None:
        return self._requests.get(host)

    def newest(self, *, is_doubtful: Callable[[str], bool]) -> list[Request]:
        """Return the latest that answered first, those of doubtful hosts behind all others."""
        requests = list(reversed(self._requests.values()))
        requests.sort(key=lambda request: is_doubtful(request.host))
        return requests
