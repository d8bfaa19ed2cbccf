"""Which addresses a list from the internet may make this program reach.

Names are checked once they are resolved, in the resolver that the connections are made by: the addresses checked are
the addresses connected to, whatever the name resolves to a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult

from common.format.reasons import Reason
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

RESOLVER_THREADS = 16
"""Names looked up at the same time. A name server that does not answer blocks a thread for seconds."""

_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""IANA's special-purpose registry (RFC 6890), multicast and the reserved block; and the address at which Azure's own
services answer every machine in it."""

_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out as global unicast; loopback, fc00::/7, fe80::/10, ff00::/8, ::ffff:0:0/96 lie outside."""

_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them: it embeds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 embeds an IPv4 address too; neither is in use any more
        "3fff::/20",
    )
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: how a cluster with IPv6 alone reaches the IPv4 internet; the last four bytes are the IPv4 address."""

_INTERNAL_NAME = re.compile(r"[^.]+|(?:.+\.)?(?:localhost|localdomain|local|internal|intranet|lan|corp|svc|home\.arpa)")
"""Names that mean something inside a network only (RFC 6761, 6762, 8375, ICANN's .internal, Kubernetes)."""


class ForbiddenAddress(Exception):
    """A name resolves to an address that may not be reached."""


def is_public_address(address: str) -> bool:
    """Return whether `address` is a global unicast one: not private, loopback, link-local, shared, reserved, …"""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _REFUSED_V4)
    if ip.scope_id:
        return False
    if ip in _NAT64:
        return is_public_address(str(ipaddress.IPv4Address(ip.packed[-4:])))
    return ip in _GLOBAL_V6 and not any(ip in network for network in _REFUSED_V6)


class HostGuard:
    """What may be asked of a URL, before any name is resolved."""

    def __init__(self, *, allow_private: bool, trusted: Iterable[URL]) -> None:
        self._allow_private = allow_private
        self._trusted = {_origin(url) for url in trusted}

    def trusts(self, url: URL) -> bool:
        """Return whether the URL's addresses need no check: the operator named its origin, or allows every host."""
        return self._allow_private or _origin(url) in self._trusted

    def check(self, url: URL) -> None:
        """Raise ImageFailed (forbidden_host) for a port, a literal address or a name that may not be reached.

        Names are looked up later: by this program, which looks at the addresses, or by a proxy, whose affair they are.
        """
        host = url.raw_host or ""
        if url.port not in {80, 443}:
            raise ImageFailed(Reason.FORBIDDEN_HOST, f"port {url.port} is neither 80 nor 443")
        if ":" in host or _ends_in_a_number(host):
            if not is_public_address(host):
                raise ImageFailed(Reason.FORBIDDEN_HOST, f"{host} is no public address")
        elif _INTERNAL_NAME.fullmatch(host.rstrip(".")):
            raise ImageFailed(Reason.FORBIDDEN_HOST, f"{host} is a name of an internal network")


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.raw_host, url.port


class GuardedResolver(AbstractResolver):
    """Asks `inner` and hands on what it says, unless one of the addresses is not public."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises ForbiddenAddress, OSError when there are none."""
        results = await self._inner.resolve(host, port, family)
        for result in results:
            if not is_public_address(result["host"]):
                raise ForbiddenAddress(f"{host} resolves to {result['host']}, which is no public address")
        return results

    async def close(self) -> None:
        await self._inner.close()


class ThreadedResolver(AbstractResolver):
    """The system's resolver in threads of its own: a name server that hangs must not hold up reading files."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises socket.gaierror when there are none."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, protocol, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, int, str]]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(found_family, protocol, str(address[0])) for found_family, _, protocol, _, address in found]


def _ends_in_a_number(host: str) -> bool:
    # The URL standard's test for what is meant as an IPv4 address: 127.1, 2130706433 and 0x7f.1 are, and the system's
    # resolver reads them so. No name of the DNS ends in a number.
    last = host.rstrip(".").rpartition(".")[2]
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last) is not None
