"""Fetches images from their sources, in memory, within bounds of time, bytes and connections."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from common.errors import SettingsError
from common.format.provenance import program_version
from common.format.reasons import Reason
from worker.fetch.byte_budget import ByteBudget
from worker.fetch.hosts import Hosts, Unanswered
from worker.fetch.http_get import REDIRECTS, check_status, read_body
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

    from worker.fetch.circuit_breaker import CircuitBreaker
    from worker.settings import FetchSettings, HttpSettings

MAX_REDIRECTS = 5
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 20.0
PLACEHOLDER = "photo_unavailable"
"""In the name of the picture that Flickr redirects to where a photo is gone."""


class _Body(NamedTuple):
    data: bytes | bytearray
    reserved: int


class ImageFetcher:
    """Fetches the images of one chunk; use it as an async context manager, from one event loop.

    `sources` are tried in their order. `folder` is where a local manifest's relative paths start; None for a manifest
    that came over the network, whose images must too. `resolver` replaces the system's, `breaker` the usual patience;
    `times` is told how long requests take.
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
        breaker: CircuitBreaker | None = None,
        times: StageTimes | None = None,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._folder = folder
        times = times or StageTimes(decode_threads=1)
        self._budget = ByteBudget(inflight_bytes, times)
        self._objects = ObjectUrls()
        self._hosts = Hosts(
            settings,
            http,
            trusted=[*_mirror_origin(settings.mirror_url), *self._objects.endpoints()],
            user_agent=_user_agent(http.user_agent),
            resolver=resolver,
            breaker=breaker,
            times=times,
        )
        self._bytes_of_files = 0
        self.retries = 0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._hosts.in_flight

    @property
    def requests(self) -> int:
        return self._hosts.requests

    @property
    def bytes_received(self) -> int:
        """Bytes of bodies, complete or not, and of files."""
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
        while True:
            try:
                return await self._from_first_source(row)
            except Unanswered as unanswered:
                await self._hosts.check_blame(unanswered)

    async def _from_first_source(self, row: Row) -> _Body:
        """Return the image from the first source that has it. Raises ImageFailed as the last one does."""
        found = candidates(row, self._sources, mirror_url=self._settings.mirror_url)
        last_resort = next((each for each in reversed(found) if each.url), None)
        failure = ImageFailed(Reason.NO_SOURCE, "")
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
        raise failure.said(detail) if isinstance(failure, Unanswered) else ImageFailed(failure.reason, detail)

    async def _from_url(self, url: str, *, is_last_resort: bool) -> _Body:
        url = check_characters(url)
        scheme = scheme_of(url)
        if scheme in {"http", "https", "s3"}:
            return await self._with_retries(url, is_last_resort=is_last_resort)
        if self._folder is None or (scheme != "file" and url[len(scheme) :].startswith("://")):
            raise ImageFailed(Reason.INVALID_URL, "it is neither http, https nor s3")
        return await self._from_file(local_path(url, self._folder))

    async def _with_retries(self, url: str, *, is_last_resort: bool) -> _Body:
        attempts = self._settings.fetch_attempts
        attempt = 0
        while True:
            try:
                return await self._follow(url, is_last_resort=is_last_resort)
            except Unanswered as unanswered:
                if not unanswered.may_pass:
                    raise
                attempt += not unanswered.is_try
                if attempt >= attempts:
                    plural = "s" * (attempts > 1)
                    raise unanswered.said(f"{unanswered.detail} after {attempts} attempt{plural}") from unanswered
                wait = unanswered.retry_after
            self.retries += 1
            # Full jitter: those who failed together must not come back together.
            backoff = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** max(0, attempt - 1))
            await asyncio.sleep(wait + random.uniform(0, backoff))

    async def _follow(self, text: str, *, is_last_resort: bool) -> _Body:
        is_signed = scheme_of(text) == "s3"
        url = await self._objects.sign(text) if is_signed else parse_http_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            if PLACEHOLDER in url.raw_name:
                raise ImageFailed(Reason.UNAVAILABLE_PLACEHOLDER, "the source says that the photo is gone")
            request = self._hosts.request(url, is_trusted=is_signed)
            answer = await self._hosts.ask(request, self._read, is_last_resort=is_last_resort)
            if isinstance(answer, _Body):
                return answer
            url, is_signed = join_redirect(url, answer), False
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects")

    async def _read(self, response: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> _Body | str:
        """Return the answer's body, or where it redirects to."""
        if response.status in REDIRECTS:
            return response.headers.get("Location", "")
        check_status(response)
        return _Body(
            *await read_body(response, self._budget, max_bytes=self._settings.max_image_bytes, deadline=deadline)
        )

    async def _from_file(self, path: Path) -> _Body:
        async with self._hosts.place("file://"):
            size = await asyncio.to_thread(image_size, path)
            if size > self._settings.max_image_bytes:
                raise ImageFailed(Reason.TOO_LARGE, f"{size} bytes, the limit is {self._settings.max_image_bytes}")
            await self._budget.reserve(size)
            try:
                data = await asyncio.to_thread(read_image, path, size)
            except BaseException:
                self._budget.release(size)
                raise
        self._bytes_of_files += len(data)
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
