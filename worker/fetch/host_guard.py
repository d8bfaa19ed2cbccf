"""Which hosts a list from the internet may make this program reach."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from common.format.reasons import Reason
from common.site_names import is_address
from worker.fetch.failures import NotAsked
from worker.fetch.public_address import is_public_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.fetch.image_url import HttpUrl

_INTERNAL_NAME = re.compile(r"[^.]+|(?:.+\.)?(?:localhost|localdomain|local|internal|intranet|lan|corp|svc|home\.arpa)")
"""The names that have a meaning only inside a network (RFC 6761, 6762, 8375, ICANN's .internal, Kubernetes)."""


class HostGuard:
    """Checks a URL before its host's name is resolved. `Addresses` checks the addresses afterwards."""

    def __init__(self, *, allow_private: bool, trusted: Iterable[HttpUrl]) -> None:
        self._allow_private = allow_private
        self._trusted = {url.origin for url in trusted}

    def trusts(self, url: HttpUrl) -> bool:
        """Return whether the URL's addresses need no check: the operator named its origin, or allows every host."""
        return self._allow_private or url.origin in self._trusted

    def check(self, url: HttpUrl) -> None:
        """Raise NotAsked (forbidden_host) for a port, a literal address or a name that is not allowed.

        Other names are resolved later: by this program, which checks the addresses, or by a proxy with its own rules.
        """
        host = url.host
        if url.port not in {80, 443}:
            raise NotAsked(Reason.FORBIDDEN_HOST, f"port {url.port} is neither 80 nor 443")
        if is_address(host):
            if not is_public_address(host):
                raise NotAsked(Reason.FORBIDDEN_HOST, f"{host} is not a public address")
        elif _INTERNAL_NAME.fullmatch(host.rstrip(".")):
            raise NotAsked(Reason.FORBIDDEN_HOST, f"{host} is a name of an internal network")
