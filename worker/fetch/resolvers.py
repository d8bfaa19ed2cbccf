"""Resolvers of host names. The guarded one refuses names that lead to an address inside a network.

Names are checked in the resolver that the connections use. So a connection goes to the address that was checked, even
if the name resolves to another address a moment later.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from worker.fetch.public_address import is_public_address

RESOLVER_THREADS = 16
"""The number of names that are looked up at the same time. A name server that does not answer blocks a thread for
seconds."""


class ForbiddenAddress(Exception):
    """A name resolves to an address that is not public."""


class GuardedResolver(AbstractResolver):
    """Returns the addresses that `inner` finds, if all of them are public."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises ForbiddenAddress, and OSError if there are none."""
        results = await self._inner.resolve(host, port, family)
        for result in results:
            if not is_public_address(result["host"]):
                raise ForbiddenAddress(f"{host} resolves to {result['host']}, which is not a public address")
        return results

    async def close(self) -> None:
        await self._inner.close()


class ThreadedResolver(AbstractResolver):
    """The system's resolver, in its own threads: a name server that hangs must not delay the reading of files."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises socket.gaierror if there are none."""
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
