"""Asks hosts for images politely, and tells a dead host from a dead network.

`Slots` limits the requests in flight, and `Admission` stops the requests to a host that fails.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from common.format.reasons import Reason
from worker.fetch.admission import Admission, Admit, Decision, HostGivenUp, NetworkGivenUp, Probe, Wait
from worker.fetch.failures import Forbidden, NotAsked, Unanswered
from worker.fetch.must_wait import MustWait, Refusal
from worker.fetch.sites import Sites
from worker.fetch.slots import Slots
from worker.fetch.statuses import check_status
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from worker.fetch.http_client import HttpClient
    from worker.fetch.request import Request
    from worker.fetch.sites import Site
    from worker.settings import FetchSettings
    from worker.stage_times import StageTimes

SILENCE_PAUSE_SECONDS = 2.0
"""The pause in seconds between two looks at a network on which no host answers."""

ANSWERED_PAUSE_SECONDS = 0.01
"""The pause in seconds before the next look after a known-good URL has answered."""

KNOWN_GOOD_URLS_ASKED = 3
"""The largest number of known-good URLs that are asked, one after the other, before the network counts as down."""

Answer = TypeVar("Answer")


class Begun(NamedTuple):
    """A request that is being made. It holds a slot until `Hosts.end`."""

    request: Request
    site: Site
    asked_at: float
    """The time of the request, on the monotonic clock."""
    is_probe: bool
    """Whether it is the probe of an open circuit."""


class Hosts:
    """For one event loop. `client` makes the probes, `times` measures the requests.

    With `errors_are_answers`, a status such as 500 shows that the network is well.
    """

    def __init__(
        self,
        settings: FetchSettings,
        *,
        client: HttpClient[Any],
        retry_after_limit_seconds: float,
        times: StageTimes,
        errors_are_answers: bool = False,
    ) -> None:
        self._errors_are_answers = errors_are_answers
        self._retry_after_limit_seconds = retry_after_limit_seconds
        self.sites = Sites(settings)
        self._times = times
        self.slots = Slots(total=settings.fetch_concurrency, per_host=settings.fetch_concurrency_per_host)
        self._admission = Admission(patience_seconds=settings.source_patience_seconds)
        self._client = client
        self._network_check = asyncio.Lock()
        self.has_faulty_host = False
        """Whether a host has sent what cannot be used."""

    @property
    def in_flight(self) -> int:
        return self.slots.in_use

    @asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """Hold one of the slots for requests while the block does other work, such as reading a file."""
        async with self.slots.slot(name):
            with self._times.measure("fetch_worked"):
                yield

    def begin_at_once(self, request: Request) -> Begun | None:
        """Begin a request. Return None, which is rare, if something has to be waited for or decided first."""
        site = self.sites.of(request.url)
        may_begin = site.is_free and self._admission.is_well(request.host)
        if not (may_begin and self.slots.try_acquire(request.url.host)):
            return None
        return self._note_begin(request, site, is_probe=False)

    def note_success(self, begun: Begun) -> None:
        """Note that an image or a redirect came."""
        self._admission.note_answer(begun.request)
        begun.site.note_answer(sent_at=begun.asked_at)
        begun.site.has_answered = True

    def end(self, begun: Begun) -> None:
        """Give back what the request holds."""
        self._times.switch(start=None, stop="fetch_worked")
        self._admission.note_end(begun.request.host)
        begun.site.note_end()
        self.slots.release(begun.request.url.host)

    async def ask(
        self,
        request: Request,
        send: Callable[[Request], Awaitable[Answer]],
        *,
        is_last_resort: bool,
        may_go_back: bool = True,
        begun: Begun | None = None,
    ) -> Answer:
        """Call `send` once the request may be made, and return what it returns.

        If the request is over already, `send` only tells what came of it, and `begun` is what it holds. It is ended.

        Raises MustWait if the site refuses the request, and if a slow site has no turn for it now and the row
        `may_go_back` to wait for one. Else the request waits here.

        Raises the failures that the module `failures` describes, and SourceUnavailable if all hosts fail for too long.
        When the host is given up, an image that has another source left (not `is_last_resort`) fails at once. An image
        without one fails only if the network works.
        """
        if begun is None:
            begun = await self._begin(request, is_last_resort=is_last_resort, may_go_back=may_go_back)
        site, asked_at = begun.site, begun.asked_at
        try:
            answer = await send(request)
        except Unanswered as failure:
            failure.host, failure.asked_at, failure.was_probe = request.host, asked_at, begun.is_probe
            self._note_unanswered(site, failure, is_last_resort=is_last_resort, is_first=may_go_back)
            raise
        except NotAsked:
            raise
        except Forbidden as forbidden:
            self._admission.note_answer(request)
            if is_last_resort:
                _check_is_final(forbidden, site, asked_at=asked_at)
            site.note_answer(sent_at=asked_at)
            raise
        except ImageFailed:
            self._admission.note_answer(request)
            site.note_answer(sent_at=asked_at)
            raise
        else:
            self.note_success(begun)
            return answer
        finally:
            self.end(begun)

    async def _begin(self, request: Request, *, is_last_resort: bool, may_go_back: bool) -> Begun:
        """Wait until the request may be made, and begin it. Raises like `ask`."""
        site = self.sites.of(request.url)
        host = request.url.host  # without its port: the limit of requests holds for all its ports together
        await self._turn_and_slot(site, host, may_go_back=may_go_back)
        admitted = self._admission.decide(request.host)
        if not isinstance(admitted, Admit):
            admitted = await self._wait_for_admission(request, site, admitted, is_last_resort=is_last_resort)
        return self._note_begin(request, site, is_probe=admitted.is_probe)

    def _note_begin(self, request: Request, site: Site, *, is_probe: bool) -> Begun:
        asked_at = time.monotonic()
        site.note_begin(asked_at)
        self._times.switch(start="fetch_worked", stop=None)
        return Begun(request, site, asked_at, is_probe)

    async def _turn_and_slot(self, site: Site, host: str, *, may_go_back: bool) -> None:
        """Wait for a turn at a site and for a slot of the host, and take both."""
        while True:
            if not (site.is_free or site.promised):
                await self._turn(site, may_go_back=may_go_back)
            await self.slots.acquire(host)
            if site.is_free or site.promised or site.has_turn(time.monotonic()):
                return
            self.slots.release(host)  # the site has become slow meanwhile

    async def _turn(self, site: Site, *, may_go_back: bool) -> None:
        """Wait for a turn at a site, and take it. Nothing is held meanwhile."""
        if site.is_slow and (may_go_back or self.sites.is_ending) and not site.has_turn(time.monotonic()):
            raise MustWait(site)
        await site.turn()

    async def is_network_up(self, *, since: float) -> bool:
        """Return whether any host has answered since then. Ask known-good URLs if that is not known."""
        async with self._network_check:
            known = self._admission.network.has_answered_since(since)
            if known is not None:
                return known
            began = time.monotonic()
            known_good_urls = self._admission.most_promising_urls(KNOWN_GOOD_URLS_ASKED)
            now = time.monotonic()
            may_be_asked = [each for each in known_good_urls if not self.sites.of(each.url).wants_silence(now)]
            if known_good_urls and not may_be_asked:
                return True  # all of them have answered, if only to ask for a pause
            for known_good_url in may_be_asked:
                if await self._answers(known_good_url) or self._admission.network.has_answered_since(began):
                    return True
            self._admission.network.note_silence(began=began)
            return False

    async def wait_for_network(self, failure: Unanswered) -> None:
        """Pause before an image is fetched again, because its failure may be the network's."""
        if not failure.may_pass:  # `ask` did not count this failure, because the host itself could be at fault
            self._note_failure(failure.host, failure)
        await asyncio.sleep(SILENCE_PAUSE_SECONDS)

    async def _wait_for_admission(
        self, request: Request, site: Site, decision: Decision, *, is_last_resort: bool
    ) -> Admit:
        """Wait until the request may be made. The caller holds a slot, before and after it."""
        while True:
            try:
                admitted = await self._carry_out(decision, site, is_last_resort=is_last_resort)
            except BaseException:
                self.slots.release(request.url.host)
                raise
            if isinstance(admitted, Admit):
                return admitted
            self.slots.release(request.url.host)
            await asyncio.sleep(admitted.seconds)
            if not (site.is_free or site.promised):
                await self._turn(site, may_go_back=False)
            await self.slots.acquire(request.url.host)
            decision = self._admission.decide(request.host)

    async def _carry_out(self, decision: Decision, site: Site, *, is_last_resort: bool) -> Admit | Wait:
        match decision:
            case Admit() | Wait():
                return decision
            case Probe(known_good_url):
                if not await self._answers(known_good_url):
                    return Wait(SILENCE_PAUSE_SECONDS)
                return Admit() if site.is_free else Wait(ANSWERED_PAUSE_SECONDS)
            case HostGivenUp() as host:
                if not is_last_resort or await self.is_network_up(since=host.failed_at):
                    raise host.image_failed()
                self._admission.check_network()
                return Wait(SILENCE_PAUSE_SECONDS)
            case NetworkGivenUp(failed_at):
                if not await self.is_network_up(since=failed_at):
                    self._admission.check_network()
                return Wait(ANSWERED_PAUSE_SECONDS)

    async def _answers(self, known_good_url: Request) -> bool:
        """Ask for a known-good URL, and return whether a useful answer came."""
        site, asked_at = self.sites.of(known_good_url.url), time.monotonic()
        site.note_begin(asked_at)
        try:
            check_status(await self._client.probe(known_good_url))
        except Unanswered as failure:
            if failure.slows:
                site.note_refusal(sent_at=asked_at, retry_after_seconds=failure.retry_after_seconds)
            if failure.is_refusal:
                self._admission.note_refusal(known_good_url.host)
                return True
            self._note_failure(known_good_url.host, failure)
            return False
        except ImageFailed:
            pass  # a 404 is useful too
        finally:
            self._admission.note_end(known_good_url.host)
            site.note_end()
        site.note_answer(sent_at=asked_at)
        self._admission.note_answer(known_good_url)
        return True

    def _note_unanswered(self, site: Site, failure: Unanswered, *, is_last_resort: bool, is_first: bool) -> None:
        """Note the failure of a request. Raises MustWait if the site only asks for fewer requests.

        Of a broken image, which fails each time, the first request alone (`is_first`) can slow its site.
        """
        if failure.is_refusal:
            self._admission.note_refusal(failure.host)
            status = 429 if failure.reason is Reason.RATE_LIMITED else 503
            raise MustWait(site, refusal=Refusal(status, failure.asked_at, failure.retry_after_seconds)) from failure
        if failure.slows and is_first and site.is_often_busy():
            site.note_refusal(sent_at=failure.asked_at, retry_after_seconds=0)
        if self._errors_are_answers and failure.reason is Reason.SERVER_ERROR:
            failure.is_hosts_fault = True
        if failure.is_hosts_fault:
            self.has_faulty_host = True
        if failure.may_pass:
            self._note_failure(failure.host, failure, is_last_resort=is_last_resort)
        elif failure.is_hosts_fault:
            self._admission.note_contact()

    def _note_failure(self, host: str, failure: Unanswered, *, is_last_resort: bool = True) -> None:
        failure.retry_after_seconds = min(failure.retry_after_seconds, self._retry_after_limit_seconds)
        self._admission.note_failure(host, failure, is_last_resort=is_last_resort)


def _check_is_final(forbidden: Forbidden, site: Site, *, asked_at: float) -> None:
    """Raise MustWait if an answer 403 is a refusal, or may be one."""
    if site.refuses_with_403:
        raise MustWait(site, refusal=Refusal(403, asked_at, 0.0)) from forbidden
    if site.has_answered and not site.denies_with_403:
        raise MustWait(site, forbidden=forbidden) from forbidden
