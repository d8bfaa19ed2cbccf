"""Fetches images from their sources into memory, within limits of time, bytes and connections."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from common.errors import SettingsError
from common.format.reasons import Reason
from common.retry import GivenUp, Pause, RetryPolicy, call_async
from worker.fetch.body_reader import Body, read_body
from worker.fetch.byte_budget import ByteBudget
from worker.fetch.failures import Unanswered
from worker.fetch.hosts import Hosts
from worker.fetch.http_errors import REDIRECTS, check_status
from worker.fetch.image_url import check_characters, join_redirect, parse_http_url, scheme_of
from worker.fetch.local_image import image_size, local_path, read_image
from worker.fetch.object_urls import ObjectUrls
from worker.fetch.sources import candidates
from worker.rows import ImageFailed, Row
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import TracebackType

    import aiohttp
    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from worker.settings import FetchSettings, HttpSettings

MAX_REDIRECTS = 5
"""The largest number of redirects that are followed for one image."""

FIRST_PAUSE_SECONDS = 0.5
"""The pause in seconds after the first failed attempt. It doubles with each further one."""

LONGEST_PAUSE_SECONDS = 20.0
"""The longest pause in seconds between two attempts, without the host's Retry-After."""

PLACEHOLDER = "photo_unavailable"
"""A part of the name of the picture to which Flickr redirects if a photo is gone."""


class Redirect(NamedTuple):
    """An answer that names another URL."""

    location: str


class ImageFetcher:
    """Fetches the images of one chunk; use it as an async context manager, from one event loop.

    `sources` are tried in their order. Relative paths of a local manifest start in `folder`. It is None for a manifest
    from the network, and then no local file is read. `inflight_bytes` limits the bytes of images in memory. `resolver`
    replaces the system's resolver. `times` measures the requests.
    """

    def __init__(
        self,
        settings: FetchSettings,
        http: HttpSettings,
        *,
        inflight_bytes: int,
        sources: tuple[str, ...],
        folder: Path | None,
        resolver: AbstractResolver | None = None,
        times: StageTimes | None = None,
    ) -> None:
        self._mirror_url = settings.mirror_url
        self._max_image_bytes = settings.max_image_bytes
        self._sources = sources
        self._folder = folder
        times = times or StageTimes(decode_threads=1)
        self._budget = ByteBudget(inflight_bytes, times)
        self._objects = ObjectUrls()
        self._hosts = Hosts(
            settings,
            http,
            trusted=[*_mirror_origin(settings.mirror_url), *self._objects.endpoints()],
            resolver=resolver,
            times=times,
        )
        self._retry_policy = RetryPolicy(
            first_pause_seconds=FIRST_PAUSE_SECONDS,
            longest_pause_seconds=LONGEST_PAUSE_SECONDS,
            attempts=settings.fetch_attempts,
        )
        self._bytes_of_files = 0
        self.retries = 0
        """The number of attempts that followed a failed one."""

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return self._hosts.in_flight

    @property
    def requests(self) -> int:
        """The number of requests made."""
        return self._hosts.requests

    @property
    def bytes_received(self) -> int:
        """The bytes of all bodies, complete or not, and of all files."""
        return self._hosts.bytes_received + self._bytes_of_files

    async def __aenter__(self) -> Self:
        await self._hosts.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hosts.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def image(self, row: Row) -> AsyncIterator[bytes | bytearray]:
        """Yield the image's bytes. They count against `inflight_bytes` until the block ends.

        Raises ImageFailed if no source has the image, SourceUnavailable if no source answers at all, and
        StoreAccessDenied or StoreUnavailable if an `s3://` image cannot be signed.
        """
        body = await self._from_any_source(row)
        try:
            yield body.data
        finally:
            self._budget.release(body.reserved)

    async def _from_any_source(self, row: Row) -> Body:
        while True:
            try:
                return await self._from_first_source(row)
            except Unanswered as failure:
                if await self._hosts.is_network_up(since=failure.asked_at):
                    raise  # the image or its host is to blame
                await self._hosts.wait_for_network(failure)

    async def _from_first_source(self, row: Row) -> Body:
        """Return the image from the first source that has it. Raises the last source's failure."""
        found = candidates(row, self._sources, mirror_url=self._mirror_url)
        last_resort = next((each for each in reversed(found) if each.url), None)
        failure: ImageFailed | None = None
        tried = []
        for candidate in found:
            source, url = candidate
            if not url:
                tried.append(f"{source}: no URL")
                continue
            try:
                return await self._from_url(url, is_last_resort=candidate is last_resort)
            except ImageFailed as failed:
                failure = failed
                tried.append(f"{source}: {failed.reason} {failed.detail}")
        detail = "; ".join(tried)
        raise failure.with_detail(detail) if failure else ImageFailed(Reason.NO_SOURCE, detail)

    async def _from_url(self, url: str, *, is_last_resort: bool) -> Body:
        url = check_characters(url)
        scheme = scheme_of(url)
        if scheme in {"http", "https", "s3"}:
            return await self._with_retries(url, is_last_resort=is_last_resort)
        if self._folder is None or (scheme != "file" and url[len(scheme) :].startswith("://")):
            raise ImageFailed(Reason.INVALID_URL, "it is not an http, https or s3 URL")
        return await self._from_file(local_path(url, self._folder))

    async def _with_retries(self, url: str, *, is_last_resort: bool) -> Body:
        try:
            return await call_async(
                lambda: self._follow_redirects(url, is_last_resort=is_last_resort),
                self._retry_policy,
                may_pass=_may_pass,
                asked_seconds=_retry_after_seconds,
                counts=_counts,
                before_pause=self._count_retry,
            )
        except GivenUp as given_up:
            failure, attempts = given_up.error, given_up.attempts
            if not isinstance(failure, ImageFailed):
                raise
            raise failure.with_detail(
                f"{failure.detail} after {attempts} attempt{'s' if attempts > 1 else ''}"
            ) from given_up

    def _count_retry(self, _: Pause) -> None:
        self.retries += 1

    async def _follow_redirects(self, text: str, *, is_last_resort: bool) -> Body:
        is_signed = scheme_of(text) == "s3"
        url = await self._objects.sign(text) if is_signed else parse_http_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            if PLACEHOLDER in url.raw_name:
                raise ImageFailed(Reason.UNAVAILABLE_PLACEHOLDER, "the source says that the photo is gone")
            request = self._hosts.request(url, is_trusted=is_signed)
            answer = await self._hosts.ask(request, self._read, is_last_resort=is_last_resort)
            if isinstance(answer, Body):
                return answer
            url, is_signed = join_redirect(url, answer.location), False
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects")

    async def _read(self, response: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> Body | Redirect:
        if response.status in REDIRECTS:
            return Redirect(response.headers.get("Location", ""))
        check_status(response)
        return await read_body(response, self._budget, max_bytes=self._max_image_bytes, deadline=deadline)

    async def _from_file(self, path: Path) -> Body:
        async with self._hosts.slot("file://"):
            size = await asyncio.to_thread(image_size, path)
            if size > self._max_image_bytes:
                raise ImageFailed(Reason.TOO_LARGE, f"{size} bytes, the limit is {self._max_image_bytes}")
            await self._budget.reserve(size)
            try:
                data = await asyncio.to_thread(read_image, path, size)
            except BaseException:
                self._budget.release(size)
                raise
        self._bytes_of_files += len(data)
        return Body(data, size)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, Unanswered) and error.may_pass


def _retry_after_seconds(error: Exception) -> float:
    return error.retry_after_seconds if isinstance(error, Unanswered) else 0.0


def _counts(error: Exception) -> bool:
    """Return whether the failed request counts as an attempt. A probe fails because of its host, not of its image."""
    return not (isinstance(error, Unanswered) and error.was_probe)


def _mirror_origin(mirror_url: str) -> list[URL]:
    if scheme_of(mirror_url) == "s3":
        return []
    try:
        return [parse_http_url(mirror_url)]
    except ImageFailed as failure:
        raise SettingsError(f"EMBEDDER_MIRROR_URL is not an http, https or s3 URL: {failure.detail}") from failure
