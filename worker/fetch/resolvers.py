"""Looks up the addresses of hosts, and refuses those that lead inside a network.

A request carries the addresses that were checked here, and its connection goes to one of them. So it does no harm if a
name resolves to another address a moment later.
"""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.format.reasons import Reason
from worker.fetch.failures import NotAsked, Unanswered
from worker.fetch.public_address import is_public_address

if TYPE_CHECKING:
    from collections.abc import Callable

RESOLVER_THREADS = 16
"""The number of names that are looked up at the same time. A name server that does not answer blocks a thread for
seconds."""

KEPT_SECONDS = 60
"""The time in seconds for which the addresses of a name are reused."""

MAX_ADDRESSES = 16
"""The number of addresses of one name that are used. An answer of a hostile name server may contain thousands."""

MAX_KNOWN = 10_000
"""The number of names whose addresses are remembered."""

_NO_SUCH_HOST = {socket.EAI_NONAME, socket.EAI_NODATA}


class Resolver(Protocol):
    """Looks up names."""

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of the host. Raises OSError if there are none."""
        ...

    async def close(self) -> None: ...


class _Known(NamedTuple):
    addresses: tuple[str, ...]
    expires: float


class Addresses:
    """The addresses of the hosts of one chunk, for one event loop."""

    def __init__(self, resolver: Resolver, *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic):
        self._resolver = resolver
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._asked: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def of(self, host: str, *, is_guarded: bool) -> tuple[str, ...]:
        """Return the host's addresses.

        Raises NotAsked (forbidden_host) if `is_guarded` and one of them is not public. Raises Unanswered if there are
        none.
        """
        addresses = self.known(host) or await self._look_up(host)
        if is_guarded:
            for address in addresses:
                if not is_public_address(address):
                    detail = f"{host} resolves to {address}, which is not a public address"
                    raise NotAsked(Reason.FORBIDDEN_HOST, detail)
        return addresses

    def known(self, host: str) -> tuple[str, ...]:
        """Return the host's addresses if they were looked up lately, else an empty tuple. They are not checked."""
        known = self._known.get(host)
        return known.addresses if known and self._clock() < known.expires else ()

    async def _look_up(self, host: str) -> tuple[str, ...]:
        task = self._asked.get(host)
        if task is None:
            task = self._asked[host] = asyncio.create_task(self._ask(host))
            task.add_done_callback(partial(self._forget, host))
        try:
            # Others may wait for the same answer, so whoever is cancelled must not cancel it.
            return await asyncio.wait_for(asyncio.shield(task), self._timeout_seconds)
        except TimeoutError:
            raise Unanswered(Reason.TIMEOUT, f"{host} was not connected in time", may_pass=True) from None
        except OSError as error:
            if error.errno in _NO_SUCH_HOST:
                raise Unanswered(Reason.CONNECTION_FAILED, f"no such host: {host}", may_pass=False) from error
            raise Unanswered(Reason.CONNECTION_FAILED, f"{host} cannot be resolved now", may_pass=True) from error

    def _forget(self, host: str, task: asyncio.Task[tuple[str, ...]]) -> None:
        del self._asked[host]
        if not task.cancelled():
            task.exception()  # asyncio would complain of an error that nobody awaits any more

    async def _ask(self, host: str) -> tuple[str, ...]:
        addresses = tuple(dict.fromkeys(await self._resolver.resolve(host)))[:MAX_ADDRESSES]
        self._known.pop(host, None)
        self._known[host] = _Known(addresses, self._clock() + KEPT_SECONDS)
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the oldest
        return addresses

    async def close(self) -> None:
        await self._resolver.close()


class ThreadedResolver:
    """The system's resolver, in its own threads: a name server that hangs must not delay anything else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(self, host: str) -> list[str]:
        """Return the host's addresses. Raises socket.gaierror if there are none."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(address[0]) for *_, address in found]
