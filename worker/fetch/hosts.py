"""Asks hosts for images, politely: so many requests at a time, none while a host fails, none to where a list must not
reach; and tells a host that fails from a network that does."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from worker.fetch.circuit_breaker import CircuitBreaker
from worker.fetch.host_guard import GuardedResolver, HostGuard, ThreadedResolver
from worker.fetch.http_get import TemporaryFailure, check_status, classified_errors
from worker.fetch.known_good_urls import Request, Witnesses
from worker.fetch.slots import Slots
from worker.proxy import EnvironmentProxies
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from worker.settings import FetchSettings, HttpSettings
    from worker.stage_times import StageTimes

DNS_CACHE_SECONDS = 60

DOUBT_SECONDS = 2.0
"""Between two looks while nobody answers."""

AGAIN_SECONDS = 0.01

WITNESSES = 3
"""Asked at most, one after the other, before the network is held to be what fails."""

_UNANSWERED = {Reason.CONNECTION_FAILED, Reason.TIMEOUT}

Answer = TypeVar("Answer")


class Unanswered(ImageFailed):
    """No answer of use: 429 or 5xx, or none for want of a connection, of the host's name, or of a certificate."""

    def __init__(self, failure: ImageFailed, *, host: str, since: float, may_pass: bool) -> None:
        super().__init__(failure.reason, failure.detail)
        self.host = host
        self.since = since
        """When the request was made."""
        self.may_pass = may_pass
        """Whether the request is worth repeating while others are answered."""
        self.retry_after = 0.0
        """Seconds that the host asked to wait, as far as they are waited."""
        self.is_try = False
        """Whether this was the request by which an open circuit was tried: that says nothing about its image."""

    def said(self, detail: str) -> Unanswered:
        """Return the same with another detail."""
        return Unanswered(ImageFailed(self.reason, detail), host=self.host, since=self.since, may_pass=self.may_pass)


class Hosts:
    """Use it as an async context manager, from one event loop. The operator vouches for the `trusted` origins."""

    def __init__(
        self,
        settings: FetchSettings,
        http: HttpSettings,
        *,
        trusted: list[URL],
        user_agent: str,
        resolver: AbstractResolver | None = None,
        breaker: CircuitBreaker | None = None,
        times: StageTimes,
    ) -> None:
        self._settings, self._http = settings, http
        self._times = times
        self._user_agent = user_agent
        self._resolver = resolver
        self._breaker = breaker or CircuitBreaker(patience_seconds=settings.source_patience_seconds)
        self._slots = Slots(total=settings.fetch_concurrency, per_host=settings.fetch_concurrency_per_host)
        self._guard = HostGuard(allow_private=settings.allow_private_hosts, trusted=trusted)
        self._proxies = EnvironmentProxies()
        self._witnesses = Witnesses()
        self._answered_at = self._asked_in_vain_at = -math.inf
        self._asking_witness = asyncio.Lock()
        self._exit = AsyncExitStack()
        self.bytes_received = 0
        self.requests = 0

    @property
    def in_flight(self) -> int:
        return self._slots.in_use

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """Hold a place among the requests under way, for what is none."""
        await self._slots.acquire(name)
        try:
            with self._times.measure("fetch_worked"):
                yield
        finally:
            self._slots.release(name)

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
            # The slots bound the connections.
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver, ttl_dns_cache=DNS_CACHE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            # `total` is ours: waiting for the byte budget must not count.
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
        """Return what to ask. Raises ImageFailed (forbidden_host) where a list must not reach."""
        is_trusted = is_trusted or self._guard.trusts(url)
        if not is_trusted:
            self._guard.check(url)
        return Request(url, is_trusted=is_trusted)

    async def ask(
        self,
        request: Request,
        read: Callable[[aiohttp.ClientResponse, asyncio.Timeout], Awaitable[Answer]],
        *,
        is_last_resort: bool,
    ) -> Answer:
        """Return what `read` makes of the answer. Raises Unanswered, other ImageFailed, and SourceUnavailable where
        everything fails: as `is_last_resort` tells, for an image that may still be had elsewhere that is not said."""
        is_try = await self._enter(request, is_last_resort=is_last_resort)
        since = time.monotonic()
        try:
            with self._times.measure("fetch_worked"):
                async with self._response(request) as (response, deadline):
                    answer = await read(response, deadline)
        except TemporaryFailure as temporary:
            unanswered = Unanswered(temporary.failure, host=request.host, since=since, may_pass=True)
            unanswered.is_try = is_try
            unanswered.retry_after = self._limited(temporary.retry_after)
            self._breaker.fail(
                request.host, unanswered, retry_after=unanswered.retry_after, is_last_resort=is_last_resort
            )
            raise unanswered from temporary
        except ImageFailed as failed:
            if failed.reason in _UNANSWERED:
                raise Unanswered(failed, host=request.host, since=since, may_pass=False) from failed
            if failed.reason not in _REFUSED_HERE:
                self._note_answer(request)
            raise
        else:
            self._note_answer(request)
            return answer
        finally:
            self._breaker.leave(request.host)
            self._slots.release(request.slots_key)

    async def check_blame(self, unanswered: Unanswered) -> None:
        """Raise `unanswered` where others are answered: then its image is to blame, or its host.

        Else it is the network that fails, or its names, and the image is to be asked for again.
        """
        if await self._somebody_answers(since=unanswered.since):
            raise unanswered
        if not unanswered.may_pass:  # such a failure counts for nothing by itself
            self._breaker.fail(unanswered.host, unanswered)
        await asyncio.sleep(DOUBT_SECONDS)

    def _limited(self, retry_after: float) -> float:
        return min(retry_after, self._http.retry_after_limit_seconds)

    def _note_answer(self, request: Request) -> None:
        self._breaker.succeed(request.host)
        self._witnesses.note(request)
        self._answered_at = time.monotonic()

    async def _enter(self, request: Request, *, is_last_resort: bool) -> bool:
        """Wait for a place, and for the host's circuit. Return whether the request is the try of an open one."""
        while True:
            await self._slots.acquire(request.slots_key)
            wait: float | None = None
            try:
                wait, is_try = await self._admission(request, is_last_resort=is_last_resort)
            finally:
                if wait != 0:
                    self._slots.release(request.slots_key)
            if not wait:
                return is_try
            await asyncio.sleep(wait)

    async def _admission(self, request: Request, *, is_last_resort: bool) -> tuple[float, bool]:
        """Return for how long to wait before asking again, and without waiting whether the request is a try."""
        try:
            wait = self._breaker.admit(request.host)
        except ImageFailed:  # the host is given up
            if not is_last_resort or await self._somebody_answers(since=self._breaker.failed_at(request.host)):
                raise
            self._breaker.check_everything()
            return DOUBT_SECONDS, False
        except SourceUnavailable:  # all are, of those that were asked of late
            if not await self._somebody_answers(since=self._breaker.failed_at()):
                raise
            return AGAIN_SECONDS, False
        if wait or not self._breaker.is_open(request.host):
            return wait, False
        # Better tried by what is known to have answered than by an image that may itself be what is wrong.
        witness = self._witnesses.of(request.host)
        if witness is None:
            return 0.0, True
        return (0.0 if await self._answers(witness) else DOUBT_SECONDS), False

    async def _somebody_answers(self, *, since: float) -> bool:
        """Return whether anybody has answered since then; ask what once did if need be."""
        async with self._asking_witness:
            if self._answered_at >= since:
                return True
            if self._asked_in_vain_at >= since:
                return False
            began = time.monotonic()
            for witness in self._witnesses.newest(is_doubtful=self._breaker.is_failing)[:WITNESSES]:
                if await self._answers(witness):
                    return True
            self._asked_in_vain_at = began
            return False

    async def _answers(self, witness: Request) -> bool:
        """Ask it once more, for an answer of any kind, and tell the breaker."""
        try:
            async with self._response(witness) as (response, _):
                check_status(response)
        except TemporaryFailure as temporary:
            retry_after = self._limited(temporary.retry_after)
            self._breaker.fail(witness.host, temporary.failure, retry_after=retry_after)
            return False
        except ImageFailed as failed:
            if failed.reason in _UNANSWERED:
                self._breaker.fail(witness.host, failed)
                return False
        finally:
            self._breaker.leave(witness.host)
        self._note_answer(witness)
        return True

    @asynccontextmanager
    async def _response(self, request: Request) -> AsyncIterator[tuple[aiohttp.ClientResponse, asyncio.Timeout]]:
        """Give the answer to a GET, its body unread, and the deadline of the whole request."""
        self.requests += 1
        proxy = self._proxies.proxy_for(request.url)
        # The proxy, which the operator chose, is what the session connects to.
        session = self._open_session if request.is_trusted or proxy else self._guarded_session
        seconds = self._settings.fetch_timeout_seconds
        async with classified_errors(request.url), asyncio.timeout(seconds) as deadline:
            response = await session.get(request.url, allow_redirects=False, proxy=proxy)
            try:
                yield response, deadline
            finally:
                self.bytes_received += response.content.total_bytes
                # Keeps the connection if the whole body has come, else closes it.
                response.release()


_REFUSED_HERE = {Reason.FORBIDDEN_HOST, Reason.INVALID_URL}
"""Nobody was asked."""
