"""Has images fetched from their sources, within limits of time, bytes and connections."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self

from common.errors import SettingsError
from common.format.reasons import Reason
from worker.fetch.byte_budget import ByteBudget, Reservation
from worker.fetch.downloads import Downloads, Ended
from worker.fetch.failures import Unanswered
from worker.fetch.fetched import Fetched
from worker.fetch.hosts import Hosts
from worker.fetch.http_client import HttpClient
from worker.fetch.image_url import check_characters, parse_http_url, scheme_of
from worker.fetch.local_image import local_path
from worker.fetch.must_wait import MustWait
from worker.fetch.object_urls import ObjectUrls
from worker.fetch.refusals import Refusals
from worker.fetch.rows_ahead import Place, RowsAhead
from worker.fetch.rows_later import RowsLater
from worker.fetch.sources import candidates, first_url
from worker.fetch.statuses import failure_of
from worker.fetch.transport import Answered, Broken, Image, ReadFile
from worker.rows import ImageFailed, Row, length_fault
from worker.stage_times import StageTimes
from worker.url_forms import odd_form

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from types import TracebackType

    from worker.fetch.downloads import Started
    from worker.fetch.image_url import HttpUrl
    from worker.fetch.relayed_proxies import RelayedProxies
    from worker.fetch.resolvers import Resolver
    from worker.fetch.sites import SiteState
    from worker.fetch.transport import Transport
    from worker.rows import ByteRange, HeldImages
    from worker.settings import FetchSettings, HttpSettings
    from worker.url_forms import UrlForm

REQUESTED_SCHEMES = {"http", "https", "s3"}
"""The schemes of URLs that servers are asked for."""

SIGNED_AT_ONCE = 64
"""The number of rows whose URLs are signed together. After other programs have used the CPU's cache, a signature takes
70 microseconds, one of 8 takes 14, and one of 64 takes 6."""

FILES = "file://"
"""Stands for the host of local files, whose reads take slots like requests."""

FILES_PLACE = Place(FILES, None)

UNKNOWN_PLACE = Place("", None)

PLACES_KEPT = 5000
"""Number of servers that are remembered with their sites."""

MAX_FIRST_BYTES = 1 << 20
"""The largest number of bytes that are reserved for an image before its length is known."""


class ImageFetcher(Generic[Image]):
    """Fetches the images of one chunk by `transport`; use it as an async context manager, from one event loop.

    `sources` are tried in their order. Relative paths of a local manifest start in `folder`. It is None for a manifest
    from the network, and then no local file is read. `inflight_bytes` limits the bytes of images in memory. `held`
    gives the images that the worker itself reads, for the source `bytes`. `resolver` replaces the system's resolver.
    `times` measures the requests. With `errors_are_answers`, images whose hosts all answer 5xx fail, and the chunk does
    not end.
    """

    def __init__(
        self,
        transport: Transport[Image],
        settings: FetchSettings,
        http: HttpSettings,
        *,
        inflight_bytes: int,
        sources: tuple[str, ...],
        folder: Path | None,
        proxies: RelayedProxies,
        held: HeldImages | None = None,
        resolver: Resolver | None = None,
        times: StageTimes | None = None,
        errors_are_answers: bool = False,
    ) -> None:
        self._transport = transport
        self._mirror_url = settings.mirror_url
        self._max_image_bytes = settings.max_image_bytes
        self._sources = sources
        self._has_one_source = sources == ("url",)
        self._folder = folder
        self._held = held
        self._times = times = times or StageTimes(decode_threads=1)
        self._budget = ByteBudget(inflight_bytes, times)
        # Half of the budget for the requests in flight, half for the images that wait for a decoder.
        self._first_bytes = min(MAX_FIRST_BYTES, inflight_bytes // (2 * settings.fetch_concurrency))
        self._objects = ObjectUrls()
        self._client = HttpClient(
            transport,
            allow_private_hosts=settings.allow_private_hosts,
            verify_certificates=settings.verify_image_certificates,
            connect_timeout_seconds=http.connect_timeout_seconds,
            trusted=[*_mirror_origin(settings.mirror_url), *self._objects.endpoints()],
            proxies=proxies,
            resolver=resolver,
        )
        self._hosts = Hosts(
            settings,
            client=self._client,
            retry_after_limit_seconds=http.retry_after_limit_seconds,
            times=times,
            errors_are_answers=errors_are_answers,
        )
        self._downloads = Downloads(
            settings,
            client=self._client,
            hosts=self._hosts,
            objects=self._objects,
            budget=self._budget,
            first_bytes=self._first_bytes,
        )
        self._refusals = Refusals()
        self._attempts, self._slow_site_seconds = settings.fetch_attempts, settings.slow_site_seconds
        self._places: dict[str, Place] = {}
        self._bytes_of_files = 0

    @property
    def retries(self) -> int:
        """The number of attempts that followed a failed one."""
        return self._downloads.retries

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return self._hosts.in_flight

    @property
    def has_faulty_host(self) -> bool:
        """Whether a host has sent what cannot be used. Then the network is well."""
        return self._hosts.has_faulty_host

    @property
    def requests(self) -> int:
        """The number of requests made."""
        return self._client.requests

    @property
    def bytes_received(self) -> int:
        """The bytes of all bodies, complete or not, and of all files."""
        return self._client.bytes_received + self._bytes_of_files

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    def ahead(self, rows: Sequence[Row], *, most_under_way: int) -> RowsAhead:
        """Return the rows as they wait to be fetched. As many as may be under way may wait for their hosts."""
        return RowsAhead(
            self._signed_ahead(rows),
            place_of=self._first_place,
            slots=self._hosts.slots,
            sites=self._hosts.sites,
            most_waiting=most_under_way,
            most_under_way=most_under_way,
        )

    async def prepare(self, row: Row) -> None:
        """Learn which server has the bucket of the list's first row, if it is in a bucket, before rows are handed out.

        Rows of a server that is not known would wait for it as tasks, a thousand of them. Raises StoreAccessDenied and
        StoreUnavailable as `fetch` does.
        """
        url = "" if row.held else self._first_url(row)
        if url.startswith("s3://") and odd_form(url) is None:
            with suppress(ImageFailed):  # `fetch` raises it again
                await self._objects.sign(url)

    def later(self, ahead: RowsAhead, *, fail: Callable[[Row, ImageFailed], object]) -> RowsLater:
        """Return what takes rows back that must wait. `fail` is called with a row that does not wait any more."""
        return RowsLater(
            ahead,
            sites=self._hosts.sites,
            refusals=self._refusals,
            slow_site_seconds=self._slow_site_seconds,
            attempts=self._attempts,
            fail=fail,
        )

    @property
    def had_slow_sites(self) -> bool:
        """Whether any site was asked at a limited rate."""
        return self._hosts.sites.had_slow

    def slow_sites(self) -> list[SiteState]:
        """Return the slow sites for which rows are left, those with the most rows first. Any thread may call it."""
        return self._hosts.sites.slow()

    def _signed_ahead(self, rows: Sequence[Row]) -> Iterator[Row]:
        for start in range(0, len(rows), SIGNED_AT_ONCE):
            block = rows[start : start + SIGNED_AT_ONCE]
            if self._objects.signs_ahead:
                self._objects.sign_ahead([self._first_url(row) for row in block if row.held is None])
            yield from block

    def _first_url(self, row: Row) -> str:
        if self._has_one_source and not row.is_named:
            return row.url
        return first_url(row, self._sources, mirror_url=self._mirror_url)

    def _first_place(self, row: Row) -> Place:
        """Return where the row's first request goes."""
        url = self._first_url(row) if row.held is None else row.held.uri
        end = url.find("/", len("https://"))
        return (self._places.get(url[:end]) if end > 0 else None) or self._find_place(url)

    def _find_place(self, text: str) -> Place:
        scheme, _, rest = text.partition("://")
        if scheme not in REQUESTED_SCHEMES:
            return FILES_PLACE
        server = f"{scheme}://{rest.partition('/')[0]}"
        if server.startswith("s3://"):
            url = self._objects.server_of(server[len("s3://") :])
            if url is None:
                return UNKNOWN_PLACE
        else:
            try:
                url = parse_http_url(f"{server}/")
            except ImageFailed:
                return UNKNOWN_PLACE
        if len(self._places) >= PLACES_KEPT:
            self._places.clear()
        place = self._places[server] = Place(url.host, self._hosts.sites.of(url))
        return place

    async def fetch(self, row: Row) -> Fetched[Image]:
        """Return the image once all its bytes have arrived. They count against `inflight_bytes` until `release`.

        Raises ImageFailed if no source has the image, MustWait if the row has to wait for a site, SourceUnavailable if
        no source answers at all, StoreAccessDenied or StoreUnavailable if an `s3://` image cannot be signed, and what
        the transport raises.
        """
        started = self._start(row)
        if started is None:
            return await self._fetch(row, None)
        outcome: Image | Answered | Broken | BaseException
        try:
            outcome = await started.answer
        except BaseException as error:  # noqa: BLE001 - raised again where the request ends
            outcome = error
        if isinstance(outcome, (Answered, Broken, BaseException)):
            return await self._fetch(row, Ended(started.begun, started.reservation, outcome))
        return self._downloads.arrived(started, outcome)

    def _start(self, row: Row) -> Started[Image] | None:
        """Make the row's first request if nothing stands in its way."""
        url = "" if row.held else self._first_url(row)
        return self._downloads.start(url, rotation=row.rotation) if url and odd_form(url) is None else None

    async def _fetch(self, row: Row, ended: Ended[Image] | None) -> Fetched[Image]:
        """Fetch the image of a row whose first request may have `ended` already."""
        while True:
            try:
                return await self._from_first_source(row, ended)
            except Unanswered as failure:
                ended = None
                if await self._hosts.is_network_up(since=failure.asked_at):
                    raise  # the image or its host is to blame
                await self._hosts.wait_for_network(failure)

    async def _from_first_source(self, row: Row, ended: Ended[Image] | None) -> Fetched[Image]:
        """Return the image from the first source that has it. Raises the last source's failure."""
        if row.held is not None:
            try:
                return await self._from_range(row.held, rotation=row.rotation)
            except ImageFailed as failed:
                raise failed.with_detail(f"bytes: {failed.reason} {failed.detail}") from failed
        found = candidates(row, self._sources, mirror_url=self._mirror_url)
        failure: ImageFailed | None = None
        tried = []
        for number, (source, url) in enumerate(found, start=1):
            if not url and not self._holds(source):
                tried.append(f"{source}: no URL")
                continue
            is_last_resort = number == len(found) or not any(
                later.url or self._holds(later.source) for later in found[number:]
            )
            try:
                if self._holds(source):
                    return await self._from_manifest(row)
                request, ended = ended, None
                return await self._from_url(url, rotation=row.rotation, is_last_resort=is_last_resort, ended=request)
            except ImageFailed as failed:
                failure = failed
                tried.append(f"{source}: {failed.reason} {failed.detail}")
            except MustWait as wait:
                if is_last_resort or self._refusals.count(row) + 1 < self._attempts:
                    raise
                status = wait.refusal.status if wait.refusal else 429
                failure = ImageFailed(Reason.RATE_LIMITED, str(status))
                tried.append(f"{source}: {failure.reason} {failure.detail} after {self._attempts} attempts")
        detail = "; ".join(tried)
        raise failure.with_detail(detail) if failure else ImageFailed(Reason.NO_SOURCE, detail)

    def _holds(self, source: str) -> bool:
        """Return whether the worker itself reads the images of the source."""
        return source == "bytes" and self._held is not None

    async def _from_manifest(self, row: Row) -> Fetched[Image]:
        """Return an image that the worker reads. It waits without a slot and without bytes of the budget."""
        if self._held is None:
            raise TypeError("the manifest holds no images")
        with self._times.measure("fetch_worked"):
            place = await self._held.get(row.position)
        return await self._from_range(place, rotation=row.rotation)

    def forget(self, row: Row) -> None:
        """Let go of what is kept for a row, because the row is settled."""
        self._refusals.forget(row)
        if self._held is not None:
            self._held.release(row.position)

    def _from_url(
        self, url: str, *, rotation: int, is_last_resort: bool, ended: Ended[Image] | None
    ) -> Awaitable[Fetched[Image]]:
        if (form := odd_form(url)) is not None:
            return self._from_odd_text(url, form, rotation=rotation, is_last_resort=is_last_resort)
        if scheme_of(url) in REQUESTED_SCHEMES:
            return self._downloads.get(url, rotation=rotation, is_last_resort=is_last_resort, ended=ended)
        return self._from_path(url, rotation=rotation)

    async def _from_odd_text(self, text: str, form: UrlForm, *, rotation: int, is_last_resort: bool) -> Fetched[Image]:
        """Return the image of a text that is no ordinary URL or path. A file of exactly this name is always meant."""
        if not form.problem and scheme_of(form.text) in REQUESTED_SCHEMES:
            try:
                return await self._downloads.get(form.text, rotation=rotation, is_last_resort=is_last_resort)
            except ImageFailed as failed:
                if form.doubt and failed.reason is Reason.NOT_FOUND:
                    raise ImageFailed(Reason.INVALID_URL, f"{form.doubt} ({failed.detail})") from failed
                raise
        failure = ImageFailed(Reason.INVALID_URL, form.problem)
        for path in dict.fromkeys((text, form.text)) if self._folder else ():
            try:
                return await self._from_path(path, rotation=rotation)
            except ImageFailed as failed:
                if failed.reason not in {Reason.NOT_FOUND, Reason.INVALID_URL}:
                    raise
                failure = failure if form.problem else failed
        if form.doubt and failure.reason is Reason.NOT_FOUND:
            raise ImageFailed(Reason.INVALID_URL, f"{form.doubt} ({failure.detail})") from failure
        raise failure

    def _from_path(self, path: str, *, rotation: int) -> Awaitable[Fetched[Image]]:
        """Return the image of a path of a local list. Raises ImageFailed (invalid_url) if the list is not local."""
        path = check_characters(path)
        if self._folder is None:
            raise ImageFailed(Reason.INVALID_URL, "it is not an http, https or s3 URL")
        return self._from_file(local_path(path, self._folder), rotation=rotation)

    def _from_range(self, held: ByteRange, *, rotation: int, is_last_resort: bool = True) -> Awaitable[Fetched[Image]]:
        """Return the image whose bytes lie in a file or behind a URL that the operator named. Raises like `fetch`."""
        if (fault := length_fault(held.length, max_bytes=self._max_image_bytes)) is not None:
            raise fault
        if scheme_of(held.uri) in REQUESTED_SCHEMES:
            return self._downloads.get(held.uri, held, rotation=rotation, is_last_resort=is_last_resort)
        return self._from_file(Path(held.uri), held, rotation=rotation)

    async def _from_file(self, path: Path, held: ByteRange | None = None, *, rotation: int) -> Fetched[Image]:
        first, length, tag = (held.offset, held.length, held.tag) if held else (0, 0, "")
        async with self._hosts.slot(FILES):
            reservation = Reservation(self._budget, most_bytes=self._max_image_bytes)
            try:
                await reservation.take(length or self._first_bytes)
                order = ReadFile(str(path), rotation, reservation.size, first, length, tag)
                image = await self._transport.read(order, reservation)
            except BaseException:
                reservation.release()
                raise
        if isinstance(image, Broken):
            reservation.release()
            raise failure_of(image)
        reservation.settle(image.length)
        self._bytes_of_files += image.length
        return Fetched(image, reservation)


def _mirror_origin(mirror_url: str) -> list[HttpUrl]:
    if scheme_of(mirror_url) == "s3":
        return []
    try:
        return [parse_http_url(mirror_url)]
    except ImageFailed as failure:
        raise SettingsError(f"EMBEDDER_MIRROR_URL is not an http, https or s3 URL: {failure.detail}") from failure
