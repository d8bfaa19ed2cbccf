"""Makes HTTP requests with libcurl, many at a time in one thread. It decides nothing about hosts, retries or redirects.

A worker runs it in each of its decoders. docs/decisions/0006-decoders-fetch.md says why it is libcurl.
"""

from __future__ import annotations

import math
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pycurl

from common.certificates import trusted_file
from common.format.reasons import Reason
from worker.fetch.curl_errors import broken_by
from worker.fetch.inflation import Inflation
from worker.fetch.transfer import Transfer
from worker.fetch.transport import Broken, Verdict
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.transfer import Sink, TransferLimits
    from worker.fetch.transport import Get

RECEIVE_BYTES = 256 << 10
"""Size in bytes of the buffer with which libcurl receives. Most photos arrive in a few pieces of this size."""

WATCH_SECONDS = 0.1
"""Time between two looks at the time limits of the requests, in seconds."""

KEPT_HANDLES = 64
"""Number of idle handles that are kept for the next requests."""

SPARE_CONNECTIONS = 32
"""Number of connections that are kept beyond one for each request in flight. By default libcurl keeps hundreds where a
list has many hosts, and each takes a descriptor."""

_SUPPRESS_CONNECT_HEADERS = 265
"""libcurl's CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name."""


class Transfers:
    """The requests of one thread. Call `run_once` again and again; nothing happens outside of it."""

    def __init__(self, limits: TransferLimits, sink: Sink) -> None:
        self._limits = limits
        self._options = _options(limits)
        """What is set on every handle."""
        self._sink = sink
        self._poll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._note_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._note_timer)
        self._timer: float | None = None
        self._next_look = 0.0
        self._to_watch: list[Transfer] = []
        """Requests that have paused because the size of their body must be watched."""
        self._active: dict[int, Transfer] = {}
        self._most_active = 0
        self._idle: list[Transfer] = []
        self._by_handle: dict[pycurl.Curl, Transfer] = {}
        self._inflations: dict[int, Inflation] = {}

    def watch(self, descriptor: int, on_readable: Callable[[], object]) -> None:
        """Let `run_once` call `on_readable` when the descriptor can be read."""
        self._watched[descriptor] = on_readable
        self._poll.register(descriptor, select.EPOLLIN)

    def start(self, job: int, order: Get) -> None:
        """Begin a request."""
        transfer = self._idle.pop() if self._idle else self._new_transfer()
        try:
            transfer.begin(job, order)
        except (pycurl.error, UnicodeEncodeError, ValueError):
            self._idle.append(transfer)
            self._sink.ended(job, Broken(Verdict.NOT_ASKED, Reason.INVALID_URL, "its host cannot be asked", 0))
            return
        self._active[job] = self._by_handle[transfer.curl] = transfer
        if len(self._active) > self._most_active:
            self._most_active = len(self._active)
            self._multi.setopt(pycurl.M_MAXCONNECTS, self._most_active + SPARE_CONNECTIONS)
        self._multi.add_handle(transfer.curl)

    def _new_transfer(self) -> Transfer:
        return Transfer(self._limits, self._options, sink=self._sink, to_watch=self._to_watch)

    def grant(self, job: int, size: int) -> None:
        """Let a body grow to `size` bytes in all."""
        if (inflation := self._inflations.pop(job, None)) is not None:
            self._inflate(job, inflation, size)
            return
        transfer = self._active.get(job)
        if transfer is not None and transfer.note_grant(size):
            self._go_on(transfer)

    def run_once(self, *, longest_pause_seconds: float = math.inf) -> None:
        """Wait until something happens, but not longer than the pause, and handle it."""
        pause = min(self._pause_seconds(), longest_pause_seconds)
        for descriptor, events in self._poll.poll(None if pause == math.inf else pause):
            on_readable = self._watched.get(descriptor)
            if on_readable is not None:
                on_readable()
                continue
            wanted = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
            self._act(descriptor, wanted | (pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0))
        now = time.monotonic()
        if self._timer is not None and now >= self._timer:
            self._timer = None
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._watch_bodies()
        self._finish()
        if self._active and now >= self._next_look:
            self._next_look = now + WATCH_SECONDS
            for transfer in list(self._active.values()):
                if (broken := transfer.overdue(now)) is not None:
                    self._end(transfer, broken)

    def close(self) -> None:
        """End all requests and connections. The sink is not told."""
        for transfer in [*self._active.values(), *self._idle]:
            transfer.curl.close()  # which takes it out of `_multi`
            transfer.forget()
        self._active.clear()
        self._idle.clear()
        self._multi.close()
        self._poll.close()

    def _pause_seconds(self) -> float:
        pause = WATCH_SECONDS if self._active else math.inf
        return pause if self._timer is None else min(pause, max(0.0, self._timer - time.monotonic()))

    def _act(self, descriptor: int, events: int) -> None:
        self._multi.socket_action(descriptor, events)

    def _watch_bodies(self) -> None:
        while self._to_watch:
            transfer = self._to_watch.pop()
            if transfer.job in self._active:
                transfer.watch()
                self._go_on(transfer)

    def _go_on(self, transfer: Transfer) -> None:
        """Let a request go on that has paused. libcurl hands over at once what it has received meanwhile."""
        try:
            transfer.curl.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:  # the body was refused
            self._end(transfer, broken_by(transfer.curl, int(error.args[0]), str(error), host=transfer.asked))
        else:
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _finish(self) -> None:
        while True:
            left, done, failed = self._multi.info_read()
            for curl in done:
                self._end(self._by_handle[curl], None)
            for curl, code, message in failed:
                transfer = self._by_handle[curl]
                self._end(transfer, broken_by(curl, code, message, host=transfer.asked))
            if not left:
                return

    def _end(self, transfer: Transfer, broken: Broken | None) -> None:
        self._multi.remove_handle(transfer.curl)
        del self._active[transfer.job], self._by_handle[transfer.curl]
        job, outcome = transfer.job, transfer.outcome(broken)
        codings, granted = transfer.head.codings, transfer.granted
        transfer.forget()
        if len(self._idle) < KEPT_HANDLES:
            self._idle.append(transfer)
        if not isinstance(outcome, list):
            self._sink.ended(job, outcome)
        elif codings:
            self._inflate(job, Inflation(outcome, codings, max_bytes=self._limits.max_bytes), granted)
        else:
            self._sink.fetched(job, outcome)

    def _inflate(self, job: int, inflation: Inflation, granted: int) -> None:
        """Go on to inflate a body that has arrived, until it is whole or needs more bytes than were granted."""
        try:
            needed = inflation.advance(granted)
        except ImageFailed as failed:
            self._sink.ended(job, Broken(Verdict.FINAL, failed.reason, failed.detail, 0))
            return
        if needed:
            self._inflations[job] = inflation
            self._sink.need(job, needed, is_first=False)
        else:
            self._sink.fetched(job, inflation.pieces)

    def _note_socket(self, event: int, descriptor: int, *_: object) -> None:
        if event == pycurl.POLL_REMOVE:
            with suppress(OSError, ValueError):  # the descriptor is closed already
                self._poll.unregister(descriptor)
            return
        mask = (select.EPOLLIN if event & pycurl.POLL_IN else 0) | (select.EPOLLOUT if event & pycurl.POLL_OUT else 0)
        try:
            self._poll.modify(descriptor, mask)
        except FileNotFoundError:
            self._poll.register(descriptor, mask)

    def _note_timer(self, milliseconds: int) -> None:
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _options(limits: TransferLimits) -> list[tuple[int, object]]:
    headers = ["Accept: image/jpeg,image/*;q=0.9,*/*;q=0.5", "Accept-Encoding: identity"]
    options: list[tuple[int, object]] = [
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.USERAGENT, limits.user_agent),
        (pycurl.HTTPHEADER, headers),
        (pycurl.PATH_AS_IS, 1),
        (pycurl.NOSIGNAL, 1),
        (pycurl.NOPROXY, ""),
        (pycurl.CONNECTTIMEOUT_MS, max(1, int(limits.connect_seconds * 1000))),
        (pycurl.BUFFERSIZE, RECEIVE_BYTES),
        (_SUPPRESS_CONNECT_HEADERS, 1),
    ]
    # libcurl parses a file once for all connections, but only if there is no folder as well.
    trusted = trusted_file()
    return [*options, (pycurl.CAINFO, trusted), (pycurl.PROXY_CAINFO, trusted)]
