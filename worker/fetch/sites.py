"""The sites that a worker asks, each with its pace, and the turns of the requests to them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from common.errors import SettingsError
from common.site_names import site_name
from worker.fetch.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.image_url import HttpUrl
    from worker.rows import Row
    from worker.settings import FetchSettings

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""Longest pause in seconds that a site can ask for with Retry-After. It holds up this site alone."""

NEW_SITE_SECONDS = 0.5
"""Time in seconds in which the number of requests to a new site may double, even if none is answered."""

UNHEARD_SECONDS = 15.0
"""Time in seconds before that if no request to any site has ended yet. Where many workers start on one machine, the
processes that make the requests take so long to start, and would then send all at once what was given out meanwhile."""

SHARE_OF_BUSY_SITE = 0.2
"""Share of a site's latest answers that must be 503 without Retry-After before they slow it. Fewer are said of single
images: a site at which 5 % of the images are broken is as fast as any other."""

NEWEST_ANSWER_WEIGHT = 0.1
"""Weight of the newest answer in that share, so that it covers about the last ten answers."""

ANSWERS_APART = 20
"""Number of answers between two refusals from which these do not count as often."""

HELD_SECONDS = 3600.0
"""Time in seconds after which a held site is looked at again, if nobody lets it go before."""

SITES_KEPT = 10_000
"""Number of sites beyond which those are forgotten that nothing has to be remembered of."""


class SiteState(NamedTuple):
    """What people read about a slow site."""

    name: str
    rate: float
    """Requests a second of this worker."""
    left: int
    """Number of rows that wait for the site or are under way to it."""

    @property
    def seconds_left(self) -> float:
        return self.left / self.rate


@dataclass(slots=True)
class Heard:
    """Whether any request has ended. Before, the processes that make the requests may not have started."""

    on_first: Callable[[], object]
    """Called once, when the first request has ended."""
    at: float | None = None
    """The time at which the first request ended, None if none has."""

    def note(self) -> None:
        """Note the end of a request."""
        if self.at is None:
            self.at = time.monotonic()
            self.on_first()


class Site:
    """One site: its pace, and what waits for it. For one event loop; times are those of the monotonic clock."""

    __slots__ = (
        "_asked_at",
        "_busy_share",
        "_heard",
        "_refused_after",
        "_silent_until",
        "_timer",
        "_waiting",
        "answers",
        "counted",
        "denies_with_403",
        "has_answered",
        "in_flight",
        "is_free",
        "is_ready",
        "line",
        "name",
        "on_slow",
        "on_turn",
        "pace",
        "promised",
        "refuses_with_403",
        "requests_allowed",
        "resting",
        "under_way",
    )

    def __init__(self, name: str, pace: Pace, heard: Heard) -> None:
        self.name = name
        self.pace = pace
        self.in_flight = 0
        self.promised = 0
        """Number of turns that were given to rows whose requests have not begun."""
        self.answers = 0
        """Number of answers that were no refusals."""
        self.has_answered = False
        """Whether a request has succeeded."""
        self.requests_allowed: int | None = None
        """Number of requests that may still be sent while the site is held, None while it is not."""
        self.refuses_with_403 = False
        """Whether 403 asks for fewer requests at this site."""
        self.denies_with_403 = False
        """Whether 403 is final at this site, whatever came before."""
        self.line: deque[Row] | None = None
        """The rows that wait for a turn, None for none."""
        self.counted = 0
        """Number of these rows that came while the site was not slow."""
        self.is_ready = False
        """Whether the first of these rows may have a turn, as far as is known."""
        self.resting = 0
        """Number of rows that the site has refused and that wait for themselves."""
        self.under_way = 0
        """Number of rows that were handed out for this site and are not settled."""
        self.on_turn: Callable[[Site], object] = _nothing
        """Called when the first row of the line may have a turn."""
        self.on_slow: Callable[[Site], object] = _nothing
        """Called when the site becomes slow."""
        self._waiting: deque[asyncio.Future[None]] | None = None
        """Requests that wait for a turn. They come before the rows."""
        self._timer: asyncio.TimerHandle | None = None
        self._silent_until = -math.inf
        self._busy_share = 0.0
        self._refused_after: int | None = None
        """Number of answers before the last refusal while the site was not slow."""
        self._heard = heard
        self._asked_at: float | None = None
        """Time of the first request."""
        self.is_free = self._is_free_now()
        """Whether requests need no turn: the site is not slow, and not new."""

    @property
    def is_slow(self) -> bool:
        """Whether the site is asked at a limited rate, or not at all for some time."""
        return self.pace.is_slow or self.requests_allowed is not None

    @property
    def left(self) -> int:
        return len(self.line or ()) + self.resting + self.under_way

    @property
    def is_forgettable(self) -> bool:
        return not (self.is_slow or self.in_flight or self.promised or self.left or self._waiting)

    def wait_seconds(self, now: float) -> float:
        """Return 0 if a request may be sent now, else the time until the next look."""
        if self.is_free:
            return 0.0
        if self.requests_allowed == 0:
            return HELD_SECONDS
        seconds = self.pace.wait_seconds(now)
        most = self.pace.most_in_flight
        if not seconds and most is not None and self.in_flight + self.promised >= most:
            if self._asked_at is None:
                return 0.0
            heard_at = self._heard.at
            began = self._asked_at + UNHEARD_SECONDS if heard_at is None else max(self._asked_at, heard_at)
            doublings, since = divmod(max(0.0, now - began), NEW_SITE_SECONDS)
            if self.in_flight + self.promised >= most << min(int(doublings), 12):
                return max(began - now, 0.0) + NEW_SITE_SECONDS - since
        return seconds

    def refuses_often(self) -> bool:
        """Note a refusal while the site is not slow, and return whether another one came shortly before it.

        One alone says more about its image: it does not slow the site.
        """
        before, self._refused_after = self._refused_after, self.answers
        return before is not None and self.answers - before < ANSWERS_APART

    def is_often_busy(self) -> bool:
        """Note an answer 503 without Retry-After, and return whether so many answers are 503 that the site is busy."""
        self._busy_share += (1 - self._busy_share) * NEWEST_ANSWER_WEIGHT
        return self._busy_share >= SHARE_OF_BUSY_SITE

    def wants_silence(self, now: float) -> bool:
        """Whether the site has asked for a pause that is not over."""
        return now < self._silent_until or self.requests_allowed == 0

    def has_turn(self, now: float) -> bool:
        """Return whether a row may have a turn: no request waits for one."""
        return not self._waiting and (self.is_free or not self.wait_seconds(now))

    def promise(self, now: float) -> None:
        """Give a turn to a row, whose request follows."""
        if not self.is_free:
            self.promised += 1
            self._note_sent(now)

    async def turn(self) -> None:
        """Wait for a turn, and take it."""
        now = time.monotonic()
        if self.has_turn(now):
            self.promise(now)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(turn)
        self.look_later()
        await turn

    def note_begin(self, now: float) -> None:
        """Note that a request is sent, with a turn that was promised or, to a free site, without one."""
        self.in_flight += 1
        if self.promised:
            self.promised -= 1
        elif not self.is_free:
            self._note_sent(now)

    def _note_sent(self, now: float) -> None:
        if self._asked_at is None:
            self._asked_at = now
        self.pace.note_sent(now)
        if self.requests_allowed:
            self.requests_allowed -= 1

    def note_answer(self, *, sent_at: float) -> None:
        """Note an answer that does not ask for fewer requests."""
        self.answers += 1
        if self._busy_share:
            self._busy_share -= self._busy_share * NEWEST_ANSWER_WEIGHT
        if self.is_free:
            self.pace.note_answer(sent_at=sent_at, now=sent_at)
            return
        self.pace.note_answer(sent_at=sent_at, now=time.monotonic())
        self.is_free = self._is_free_now()

    def note_refusal(self, *, sent_at: float, retry_after_seconds: float) -> None:
        """Note an answer that asks for fewer requests."""
        was_slow, now = self.is_slow, time.monotonic()
        pause = min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
        if pause:
            self._silent_until = max(self._silent_until, now + pause)
        self.pace.note_refusal(sent_at=sent_at, now=now, retry_after_seconds=pause)
        self.is_free = self._is_free_now()
        if self.is_slow and not was_slow:
            self.on_slow(self)
        self.look_again()

    def hold_after(self, requests: int | None) -> None:
        """Hold further requests after that number of them. None: let them go on."""
        was_slow, self.requests_allowed = self.is_slow, requests
        if self.is_slow and not was_slow:
            self.on_slow(self)
        self.is_free = self._is_free_now()
        self.look_again()

    def dismiss(self, error: Exception) -> None:
        """Let the requests fail that wait for a turn."""
        for turn in self._waiting or ():
            if not turn.done():
                turn.set_exception(error)
        self._waiting = None

    def note_end(self) -> None:
        """Note that a request is over. Another one may have its turn."""
        self.in_flight -= 1
        self._heard.note()
        self.look_again()

    def look_again(self) -> None:
        """Look anew when the next turn is, if anybody waits for it: it may come earlier than was thought."""
        if self._waiting or (self.line and not self.is_ready):  # else the line is looked at with every free slot
            self.look_later()

    def look_later(self) -> None:
        """Look for whoever may have a turn, as soon as there may be one."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.wait_seconds(time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        waiting = self._waiting
        while waiting and not self.wait_seconds(now):
            turn = waiting.popleft()
            if not turn.done():
                self.promise(now)
                turn.set_result(None)
        if self.line and self.has_turn(now):
            self.on_turn(self)
        elif waiting or self.line:
            self.look_later()

    def _is_free_now(self) -> bool:
        return not self.pace.is_slow and self.pace.most_in_flight is None and self.requests_allowed is None


class Sites:
    """The sites of one chunk. Raises SettingsError if a rate was set for a name that is no site."""

    def __init__(self, settings: FetchSettings) -> None:
        self._at_least = settings.min_rate_per_site
        self._at_most = settings.max_rate_per_site or math.inf
        self._fixed = settings.rates_by_site
        for name in self._fixed:
            _check_name(name)
        self._random = Random()
        self._heard = Heard(self._look_again)
        self._by_server: dict[tuple[str, int], Site] = {}
        self._by_name: dict[str, Site] = {}
        self._most_kept = SITES_KEPT
        self.on_turn: Callable[[Site], object] = _nothing
        """What the sites call, see `Site`."""
        self.on_slow: Callable[[Site], object] = _nothing
        self._slow: dict[str, Site] = {}
        """The sites that were slow once."""
        self.had_slow = False
        """Whether any site was slow."""
        self.is_ending = False
        """Whether no request waits for its turn any more."""

    def _look_again(self) -> None:
        """Let every site look again, now that the processes that make the requests are known to work."""
        for site in self._by_name.values():
            site.look_again()

    def of(self, url: HttpUrl) -> Site:
        """Return the site of a URL."""
        server = (url.host, url.port)
        return self._by_server.get(server) or self._add(server)

    def slow(self) -> list[SiteState]:
        """Return the slow sites for which rows are left, those with the most rows first. Any thread may call it."""
        states = []
        for site in list(self._slow.values()):
            rate = site.pace.rate
            if rate is not None and site.left:
                states.append(SiteState(site.name, rate, site.left))
        return sorted(states, key=lambda state: -state.left)

    def end(self, error: Callable[[Site], Exception]) -> None:
        """Let no request wait for a turn from now on. Those that wait fail with an error of their site."""
        self.is_ending = True
        for site in self._by_name.values():
            site.dismiss(error(site))

    def _add(self, server: tuple[str, int]) -> Site:
        if len(self._by_server) >= self._most_kept:
            self._forget_some()
        host, port = server
        name = site_name(host, port)
        site = self._by_name.get(name)
        if site is None:
            fixed = self._fixed.get(name)
            pace = Pace(at_least=self._at_least, at_most=self._at_most, fixed=fixed, random=self._random)
            site = self._by_name[name] = Site(name, pace, self._heard)
            site.on_turn = self._pass_turn
            site.on_slow = self._note_slow
            if site.is_slow:
                self._note_slow(site)
        self._by_server[server] = site
        return site

    def _pass_turn(self, site: Site) -> None:
        self.on_turn(site)

    def _note_slow(self, site: Site) -> None:
        self.had_slow = True
        self._slow[site.name] = site
        self.on_slow(site)

    def _forget_some(self) -> None:
        self._by_server = {server: site for server, site in self._by_server.items() if not site.is_forgettable}
        self._by_name = {site.name: site for site in self._by_server.values()}
        self._slow = {name: site for name, site in self._slow.items() if site.is_slow or site.left}
        self._most_kept = SITES_KEPT + 2 * len(self._by_server)


def _check_name(name: str) -> None:
    host, _, port = name.strip("[]").rpartition(":") if ":" in name else (name, "", "")
    site = site_name(host.strip("[]"), int(port) if port.isdigit() else 80)
    if port and not port.isdigit():
        raise SettingsError(f"EMBEDDER_SITE_RATES: {name!r} is no site; expected a domain such as flickr.com")
    if site not in {name, f"{name}:80"}:
        raise SettingsError(f"EMBEDDER_SITE_RATES: {name} is no site; write {site}")


def _nothing(_: Site) -> None:
    pass
