"""Images at URLs: the requests for one image, which are repeated and follow redirects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple

from common.format.reasons import Reason
from common.retry import GivenUp, Pause, RetryPolicy, call_async
from worker.fetch.byte_budget import ByteBudget, Reservation
from worker.fetch.chain_cookies import ChainCookies
from worker.fetch.failures import Unanswered
from worker.fetch.fetched import Fetched
from worker.fetch.file_places import FilePlaces
from worker.fetch.image_url import join_redirect, parse_http_url, parse_plain_url, scheme_of
from worker.fetch.must_wait import MustWait
from worker.fetch.statuses import REDIRECTS, check_status
from worker.fetch.transport import Answered, Broken, Image
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.fetch.hosts import Begun, Hosts
    from worker.fetch.http_client import HttpClient
    from worker.fetch.image_url import HttpUrl
    from worker.fetch.object_urls import ObjectUrls
    from worker.fetch.request import Request
    from worker.rows import ByteRange
    from worker.settings import FetchSettings

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
    cookies: tuple[str, ...]
    """What it sets, the values of its headers Set-Cookie."""


class Started(NamedTuple, Generic[Image]):
    """The first request for an image, which was made at once."""

    begun: Begun
    reservation: Reservation
    answer: Awaitable[Image | Answered | Broken]


class Ended(NamedTuple, Generic[Image]):
    """The same request when it is over."""

    begun: Begun
    reservation: Reservation
    outcome: Image | Answered | Broken | BaseException
    """What the transport returned or raised."""


class Downloads(Generic[Image]):
    """The requests of one chunk. `first_bytes` are reserved for an image before its length is known."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        client: HttpClient[Image],
        hosts: Hosts,
        objects: ObjectUrls,
        budget: ByteBudget,
        first_bytes: int,
    ) -> None:
        self._client = client
        self._hosts = hosts
        self._objects = objects
        self._budget = budget
        self._first_bytes = first_bytes
        self._max_image_bytes = settings.max_image_bytes
        self._places = FilePlaces()
        self._resumed: dict[str, HttpUrl] = {}
        """Where the redirects of images lead that wait for the site there, by the images' URLs."""
        self._retry_policy = RetryPolicy(
            first_pause_seconds=FIRST_PAUSE_SECONDS,
            longest_pause_seconds=LONGEST_PAUSE_SECONDS,
            attempts=settings.fetch_attempts,
        )
        self.retries = 0
        """The number of attempts that followed a failed one."""

    # Most images come with one request that can be made at once. They pass `start` and `arrived` only, because the many
    # coroutines of `get` would take a quarter of the time that an image costs the event loop. `get` handles all others,
    # and whatever else comes of such a first request.

    def start(self, url: str, *, rotation: int) -> Started[Image] | None:
        """Begin the first request for an image. Return None if something has to be waited for, looked up or decided.

        Whoever calls this must await the answer at once, and hand it to `arrived` if it is an image, else to `get`.
        """
        if url in self._resumed:
            return None
        is_signed = url.startswith("s3://")
        found = self._objects.signed_ahead(url) if is_signed else parse_plain_url(url)
        if found is None or PLACEHOLDER in found.text:
            return None
        request = self._client.request_at_once(found, is_trusted=is_signed)
        if request is None:
            return None
        order = self._client.order_at_once(request, rotation=rotation, granted_bytes=self._first_bytes)
        reservation = Reservation(self._budget, most_bytes=self._max_image_bytes)
        if order is None or not reservation.try_take(self._first_bytes):
            return None
        begun = self._hosts.begin_at_once(request)
        if begun is None:
            reservation.release()
            return None
        if is_signed:
            self._objects.forget_ahead(url)
        return Started(begun, reservation, self._client.send(order, reservation))

    def arrived(self, started: Started[Image], image: Image) -> Fetched[Image]:
        """Return the image that a request has brought."""
        self._client.note(image)
        self._hosts.note_success(started.begun)
        self._hosts.end(started.begun)
        started.reservation.settle(image.length)
        return Fetched(image, started.reservation)

    async def get(
        self,
        url: str,
        held: ByteRange | None = None,
        *,
        rotation: int,
        is_last_resort: bool,
        ended: Ended[Image] | None = None,
    ) -> Fetched[Image]:
        """Return the image of an http, https or s3 URL, or the range `held` of what is there.

        `is_last_resort` tells that the image has no other source. `ended` is the first request, if it was made already.
        Raises as `ImageFetcher.fetch`, and Unanswered.
        """
        failed: list[Exception] = []
        try:
            return await call_async(
                lambda: self._follow_redirects(
                    url,
                    held,
                    rotation=rotation,
                    is_last_resort=is_last_resort,
                    may_go_back=not failed,
                    ended=None if failed else ended,
                ),
                self._retry_policy,
                may_pass=_may_pass,
                asked_seconds=_retry_after_seconds,
                counts=_counts,
                before_pause=lambda pause: self._note_retry(pause, failed),
            )
        except MustWait:
            if failed and self._hosts.sites.is_ending and isinstance(failed[-1], ImageFailed):
                raise failed[-1] from None  # it was asked, and is not asked again
            raise
        except GivenUp as given_up:
            failure, attempts = given_up.error, given_up.attempts
            if not isinstance(failure, ImageFailed):
                raise
            raise failure.with_detail(
                f"{failure.detail} after {attempts} attempt{'s' if attempts > 1 else ''}"
            ) from given_up

    def _note_retry(self, pause: Pause, failed: list[Exception]) -> None:
        self.retries += 1
        failed.append(pause.error)

    async def _follow_redirects(
        self,
        text: str,
        held: ByteRange | None,
        *,
        rotation: int,
        is_last_resort: bool,
        may_go_back: bool,
        ended: Ended[Image] | None,
    ) -> Fetched[Image]:
        is_signed = scheme_of(text) == "s3"
        follow = partial(
            self._follow,
            text=text,
            held=held,
            rotation=rotation,
            is_last_resort=is_last_resort,
            may_go_back=may_go_back,
        )
        if ended is not None:
            return await follow(ended.begun.request.url, is_signed=is_signed, ended=ended)
        place: HttpUrl | None = None
        if held is not None:
            place = self._places.of(text)
        elif self._resumed:
            place = self._resumed.pop(text, None)
        if place is not None:
            try:
                return await follow(place, is_signed=is_signed and held is not None)
            except ImageFailed as failed:
                self._places.forget(text)  # what it led to may be good for some time only
                if isinstance(failed, Unanswered):
                    raise
            except MustWait as wait:
                if wait.forbidden is None:
                    raise
                self._places.forget(text)  # as above
        if held is None:
            ready = self._objects.signed_ahead(text) if is_signed else parse_http_url(text)
            self._objects.forget_ahead(text)
            url = ready or await self._objects.sign(text)
        else:
            url = await self._objects.sign_file(text) if is_signed else parse_http_url(text)
        return await follow(url, is_signed=is_signed)

    async def _follow(
        self,
        url: HttpUrl,
        *,
        text: str,
        is_signed: bool,
        held: ByteRange | None,
        rotation: int,
        is_last_resort: bool,
        may_go_back: bool,
        ended: Ended[Image] | None = None,
    ) -> Fetched[Image]:
        start = url
        cookies: ChainCookies | None = None  # few chains need any
        for _ in range(MAX_REDIRECTS + 1):
            if PLACEHOLDER in url.text and PLACEHOLDER in url.name:
                raise ImageFailed(Reason.UNAVAILABLE_PLACEHOLDER, "the source says that the photo is gone")
            # The manifest's own server is trusted wherever it redirects to, as when its index was read.
            is_trusted = is_signed or held is not None
            cookie = cookies.header(url) if cookies else ""
            request = self._client.request(url, is_trusted=is_trusted, cookie=cookie, held=held)
            begun = None if ended is None else ended.begun
            send = partial(self._send, rotation=rotation, ended=ended)
            ended = None
            try:
                answer = await self._hosts.ask(
                    request, send, is_last_resort=is_last_resort, may_go_back=may_go_back, begun=begun
                )
            except MustWait:
                if url.text != text and cookies is None and held is None and not is_signed:
                    self._resumed[text] = url
                raise
            if not isinstance(answer, Redirect):
                if held is not None and url is not start and cookies is None:
                    self._places.note(held.uri, url)
                return answer
            if answer.cookies:
                cookies = cookies or ChainCookies()
                cookies.note(url, answer.cookies)
            url, is_signed = join_redirect(url, answer.location), False
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects")

    async def _send(self, request: Request, *, rotation: int, ended: Ended[Image] | None) -> Fetched[Image] | Redirect:
        if ended is None:
            reservation = Reservation(self._budget, most_bytes=self._max_image_bytes)
        else:
            reservation = ended.reservation
        try:
            if ended is not None:
                answer = self._client.note(_returned(ended.outcome))
            else:
                await reservation.take(self._first_bytes if request.range is None else request.range.length)
                answer = await self._client.get(request, rotation=rotation, reservation=reservation)
            if isinstance(answer, Answered):
                reservation.release()
                return _redirect(answer)
        except BaseException:
            reservation.release()
            raise
        reservation.settle(answer.length)
        return Fetched(answer, reservation)


def _returned(outcome: Image | Answered | Broken | BaseException) -> Image | Answered | Broken:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _redirect(answer: Answered) -> Redirect:
    """Return where an answer without an image leads. Raises its failure if it leads nowhere."""
    if answer.status in REDIRECTS:
        return Redirect(answer.location, answer.cookies)
    check_status(answer)
    raise TypeError("the transport answered with status 200 and without an image")


def _may_pass(error: Exception) -> bool:
    return isinstance(error, Unanswered) and error.may_pass


def _retry_after_seconds(error: Exception) -> float:
    return error.retry_after_seconds if isinstance(error, Unanswered) else 0.0


def _counts(error: Exception) -> bool:
    """Return whether the failed request counts as an attempt. A probe fails because of its host, not of its image."""
    return not (isinstance(error, Unanswered) and error.was_probe)
