"""Fetches images from their sources, in memory, within bounds of time, bytes and connections."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import aiohttp

from common.errors import SettingsError
from common.provenance import program_version
from common.reasons import Reason
from worker.byte_budget import ByteBudget
from worker.circuit_breaker import CircuitBreaker
from worker.host_guard import GuardedResolver, HostGuard, ThreadedResolver
from worker.http_get import REDIRECTS, NotAsked, TemporaryFailure, check_status, classified_errors, read_body
from worker.image_url import check_characters, join_redirect, parse_http_url, scheme_of
from worker.local_image import image_size, local_path, read_image
from worker.object_urls import ObjectUrls
from worker.proxy import EnvironmentProxies
from worker.rows import ImageFailed, Row
from worker.slots import Slots
from worker.sources import candidates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from worker.settings import WorkerSettings

MAX_REDIRECTS = 5
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 20.0
DNS_CACHE_SECONDS = 60
PLACEHOLDER = "photo_unavailable"
"""In the name of the picture that Flickr redirects to where a photo is gone."""


class _Body(NamedTuple):
    data: bytes | bytearray
    reserved: int


class ImageFetcher:
    """Fetches the images of one chunk; use it as an async context manager, from one event loop.

    `sources` are tried in their order. `folder` is where a local manifest's relative paths start; None for a manifest
    that came over the network, whose images must too. `resolver` replaces the system's, `breaker` the usual patience.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        sources: tuple[str, ...],
        folder: Path | None,
        resolver: AbstractResolver | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._folder = folder
        self._resolver = resolver
        self._breaker = breaker or CircuitBreaker()
        self._budget = ByteBudget(settings.max_inflight_bytes)
        self._slots = Slots(total=settings.fetch_concurrency, per_host=settings.fetch_concurrency_per_host)
        self._objects = ObjectUrls()
        self._guard = HostGuard(
            allow_private=settings.allow_private_hosts,
            trusted=[*_mirror_origin(settings.mirror_url), *self._objects.endpoints()],
        )
        self._proxies = EnvironmentProxies()
        self._user_agent = _user_agent(settings.user_agent)
        self._exit = AsyncExitStack()
        self.bytes_received = 0
        """Of bodies, complete or not."""
        self.requests = 0
        self.retries = 0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._slots.in_use

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
                connect=self._settings.connect_timeout_seconds,
                sock_read=self._settings.read_timeout_seconds,
            ),
            headers={
                "User-Agent": self._user_agent,
                "Accept": "image/jpeg,image/*;q=0.9,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,
        )

    @asynccontextmanager
    async def image(self, row: Row) -> AsyncIterator[bytes | bytearray]:
        """Yield the image's bytes, which count against `max_inflight_bytes` until the block is left.

        Raises ImageFailed when no source has it, SourceUnavailable when no source answers at all, and whatever the
        SDK's credentials of `s3://` images are refused with.
        """
        body = await self._from_any_source(row)
        try:
            yield body.data
        finally:
            self._budget.release(body.reserved)

    async def _from_any_source(self, row: Row) -> _Body:
        reason = Reason.NO_SOURCE
        tried = []
        for source, url in candidates(row, self._sources, mirror_url=self._settings.mirror_url):
            if not url:
                tried.append(f"{source}: no URL")
                continue
            try:
                return await self._from_url(url)
            except ImageFailed as failure:
                reason = failure.reason
                tried.append(f"{source}: {failure.reason} {failure.detail}")
        raise ImageFailed(reason, "; ".join(tried))

    async def _from_url(self, url: str) -> _Body:
        url = check_characters(url)
        scheme = scheme_of(url)
        if scheme in {"http", "https", "s3"}:
            return await self._with_retries(url)
        if self._folder is None or (scheme != "file" and url[len(scheme) :].startswith("://")):
            raise ImageFailed(Reason.INVALID_URL, "it is neither http, https nor s3")
        return await self._from_file(local_path(url, self._folder))

    async def _with_retries(self, url: str) -> _Body:
        attempts = self._settings.fetch_attempts
        for attempt in range(1, attempts + 1):
            try:
                return await self._follow(url)
            except TemporaryFailure as temporary:
                failure = temporary.failure
                wait = self._limited(temporary.retry_after)
            if attempt < attempts:
                self.retries += 1
                # Full jitter: those who failed together must not come back together.
                await asyncio.sleep(
                    wait + random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (attempt - 1)))
                )
        raise ImageFailed(failure.reason, f"{failure.detail} after {attempts} attempt{'s' * (attempts > 1)}")

    def _limited(self, retry_after: float) -> float:
        return min(retry_after, self._settings.retry_after_limit_seconds)

    async def _follow(self, text: str) -> _Body:
        is_signed = scheme_of(text) == "s3"
        url = await self._objects.sign(text) if is_signed else parse_http_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            if PLACEHOLDER in url.raw_name:
                raise ImageFailed(Reason.UNAVAILABLE_PLACEHOLDER, "the source says that the photo is gone")
            answer = await self._ask(url, is_trusted=is_signed or self._guard.trusts(url))
            if isinstance(answer, _Body):
                return answer
            url, is_signed = answer, False
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects")

    async def _ask(self, url: URL, *, is_trusted: bool) -> _Body | URL:
        proxy = self._proxies.proxy_for(url)
        if not is_trusted:
            self._guard.check(url, is_proxied=proxy is not None)
        # The proxy, which the operator chose, is what the session connects to.
        session = self._open_session if is_trusted or proxy else self._guarded_session
        host = url.raw_host or ""
        await self._enter(host)
        try:
            answer = await self._get(session, url, proxy)
        except TemporaryFailure as temporary:
            self._breaker.fail(host, temporary.failure, retry_after=self._limited(temporary.retry_after))
            raise
        except NotAsked:
            raise
        except ImageFailed:
            self._breaker.succeed(host)
            raise
        else:
            self._breaker.succeed(host)
            return answer
        finally:
            self._breaker.leave(host)
            self._slots.release(host)

    async def _enter(self, host: str) -> None:
        while True:
            await self._slots.acquire(host)
            try:
                wait = self._breaker.admit(host)
            except BaseException:
                self._slots.release(host)
                raise
            if not wait:
                return
            self._slots.release(host)
            await asyncio.sleep(wait)

    async def _get(self, session: aiohttp.ClientSession, url: URL, proxy: URL | None) -> _Body | URL:
        self.requests += 1
        async with classified_errors(url), asyncio.timeout(self._settings.fetch_timeout_seconds) as deadline:
            response = await session.get(url, allow_redirects=False, proxy=proxy)
            try:
                if response.status in REDIRECTS:
                    return join_redirect(url, response.headers.get("Location", ""))
                check_status(response)
                data, reserved = await read_body(
                    response, self._budget, max_bytes=self._settings.max_image_bytes, deadline=deadline
                )
            finally:
                self.bytes_received += response.content.total_bytes
                # Keeps the connection if the whole body has come, else closes it.
                response.release()
        return _Body(data, reserved)

    async def _from_file(self, path: Path) -> _Body:
        host = "file://"
        await self._slots.acquire(host)
        try:
            size = await asyncio.to_thread(image_size, path)
            if size > self._settings.max_image_bytes:
                raise ImageFailed(Reason.TOO_LARGE, f"{size} bytes, the limit is {self._settings.max_image_bytes}")
            await self._budget.reserve(size)
            try:
                data = await asyncio.to_thread(read_image, path, size)
            except BaseException:
                self._budget.release(size)
                raise
        finally:
            self._slots.release(host)
        self.bytes_received += len(data)
        return _Body(data, size)


def _mirror_origin(mirror_url: str) -> list[URL]:
    if scheme_of(mirror_url) == "s3":
        return []
    try:
        return [parse_http_url(mirror_url)]
    except ImageFailed as failure:
        raise SettingsError(f"EMBEDDER_MIRROR_URL is no http, https or s3 URL: {failure.detail}") from failure


def _user_agent(template: str) -> str:
    text = template.replace("{version}", program_version())
    if not (text.isascii() and text.isprintable()):
        raise SettingsError("EMBEDDER_USER_AGENT must be printable ASCII, as every HTTP header")
    return text
