"""Makes the GET requests for images, with aiohttp, and only to addresses that are allowed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self

import aiohttp

from worker.fetch.host_guard import HostGuard
from worker.fetch.http_errors import REQUEST_ERRORS, failure_of
from worker.fetch.request import Request
from worker.fetch.resolvers import GuardedResolver, ThreadedResolver
from worker.proxy import EnvironmentProxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from worker.settings import FetchSettings, HttpSettings

DNS_CACHE_SECONDS = 60
"""The time in seconds for which the addresses of a name are reused."""


class HttpClient:
    """Use it as an async context manager, from one event loop.

    The origins in `trusted` are allowed whatever their addresses, because the operator named them. `resolver` replaces
    the system's resolver.
    """

    def __init__(
        self, settings: FetchSettings, http: HttpSettings, *, trusted: list[URL], resolver: AbstractResolver | None
    ) -> None:
        self._http = http
        self._request_seconds = settings.fetch_timeout_seconds
        self._user_agent = http.user_agent_header
        self._resolver = resolver
        self._guard = HostGuard(allow_private=settings.allow_private_hosts, trusted=trusted)
        self._proxies = EnvironmentProxies()
        self._exit = AsyncExitStack()
        self.requests = 0
        self.bytes_received = 0
        """The bytes of all bodies, complete or not."""

    async def __aenter__(self) -> Self:
        resolver = self._resolver or ThreadedResolver()
        self._exit.push_async_callback(resolver.close)
        self._open_session = await self._exit.enter_async_context(self._session(resolver))
        self._guarded_session = await self._exit.enter_async_context(self._session(GuardedResolver(resolver)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    def _session(self, resolver: AbstractResolver) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit here, because `Slots` limits the requests.
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver, ttl_dns_cache=DNS_CACHE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            # `total` is replaced by the deadline of `get`, which does not count the wait for the byte budget.
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._http.connect_timeout_seconds,
                sock_read=self._http.read_timeout_seconds,
            ),
            headers={
                "User-Agent": self._user_agent,
                "Accept": "image/jpeg,image/*;q=0.9,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,
        )

    def request(self, url: URL, *, is_trusted: bool) -> Request:
        """Return the request for a URL. Raises NotAsked (forbidden_host) if the URL is not allowed."""
        is_trusted = is_trusted or self._guard.trusts(url)
        if not is_trusted:
            self._guard.check(url)
        return Request(url, is_trusted=is_trusted)

    @asynccontextmanager
    async def get(self, request: Request) -> AsyncIterator[tuple[aiohttp.ClientResponse, asyncio.Timeout]]:
        """Yield the answer, its body unread, and the deadline of the whole request.

        Raises NotAsked, Unanswered and ResourceExhausted, also for errors of aiohttp within the block.
        """
        self.requests += 1
        proxy = self._proxies.proxy_for(request.url)
        # With a proxy, the session connects only to the proxy, which the operator chose.
        session = self._open_session if request.is_trusted or proxy else self._guarded_session
        try:
            async with asyncio.timeout(self._request_seconds) as deadline:
                response = await session.get(request.url, allow_redirects=False, proxy=proxy)
                try:
                    yield response, deadline
                finally:
                    self.bytes_received += response.content.total_bytes
                    # Keeps the connection if the whole body has arrived, closes it if not.
                    response.release()
        except REQUEST_ERRORS as error:
            raise failure_of(error, request.url) from error
