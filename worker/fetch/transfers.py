"""Makes HTTP requests with libcurl, many at a time in one thread. It decides nothing about hosts, retries or redirects.

A worker runs it in each of its decoders. docs/decisions/0006-decoders-fetch.md says why it is libcurl.
"""

from __future__ import annotations

import ipaddress
import math
import re
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pycurl

from common.certificates import trusted_file
from common.format.reasons import Reason
from worker.fetch.chain_cookies import COOKIE_OVERHEAD, MAX_COOKIE_CHARS
from worker.fetch.curl_errors import broken_by
from worker.fetch.inflation import MAX_CODINGS, Inflation, codings_of
from worker.fetch.public_address import is_public_address
from worker.fetch.statuses import REDIRECTS
from worker.fetch.transport import Answered, Broken, Verdict
from worker.fetch.wanted_range import AnswerHead, WantedRange
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.transport import Get

RECEIVE_BYTES = 256 << 10
"""Size in bytes of the buffer with which libcurl receives. Most photos arrive in a few pieces of this size."""

UNANNOUNCED_BYTES = 1 << 20
"""Number of bytes that a body of unknown length has at first."""

DRAINED_BYTES = 64 << 10
"""Number of bytes of an unwanted body that are read, so that its connection can be used again."""

DRAIN_SECONDS = 0.5
"""Longest time to read an unwanted body, in seconds."""

WATCH_SECONDS = 0.1
"""Time between two looks at the time limits of the requests, in seconds."""

KEPT_HANDLES = 64
"""Number of idle handles that are kept for the next requests."""

MANY_PIECES = 1000
"""Number of pieces of a body from which it counts whether they are small."""

SMALL_PIECE_BYTES = 1024
"""Average size in bytes below which the pieces of a body are joined: each takes some 50 bytes beside its own."""

SPARE_CONNECTIONS = 32
"""Number of connections that are kept beyond one for each request in flight. By default libcurl keeps hundreds where a
list has many hosts, and each takes a descriptor."""

_FIRST_LETTERS = frozenset(b"CcLlRrTt\r\n")
"""First bytes of the headers that are read, and of the empty line after them."""

_FIRST_LETTERS_OF_REDIRECT = _FIRST_LETTERS | frozenset(b"Ss")
"""The same for a redirect, whose cookies count."""

_FIRST_LETTERS_OF_PART = _FIRST_LETTERS | frozenset(b"Ee")
"""The same for a part of a file, whose ETag counts."""

_STATUS = re.compile(rb"\S+\s+([1-9][0-9]{2})")
"""The start of an answer's first line, up to its status."""

_UNREADABLE_STATUS = 999

_WITHOUT_PICTURE = {204, 205}
"""The statuses of success that have no body."""

_WHOLE = re.compile(rb"\s*bytes\s+0-(\d+)/(\d+)\s*")
"""The header Content-Range of a part that begins with the first byte."""

_SUPPRESS_CONNECT_HEADERS = 265
"""libcurl's CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name."""


class TransferLimits(NamedTuple):
    """What holds for every request."""

    connect_seconds: float
    read_seconds: float
    """Longest time between two pieces of an answer."""
    request_seconds: float
    """Longest time of a whole request, without its waits for memory."""
    max_bytes: int
    user_agent: str


class Sink(Protocol):
    """Whoever is told what becomes of the requests."""

    def need(self, job: int, size: int, *, is_first: bool) -> None:
        """The body needs `size` bytes, and none of its bytes is kept yet if `is_first`.

        The request pauses until `Transfers.grant`.
        """

    def fetched(self, job: int, pieces: list[bytes]) -> None:
        """The whole body has arrived, in pieces."""

    def ended(self, job: int, outcome: Answered | Broken) -> None:
        """The request is over without a body."""


class Transfers:
    """The requests of one thread. Call `run_once` again and again; nothing happens outside of it."""

    def __init__(self, limits: TransferLimits, sink: Sink) -> None:
        self.limits = limits
        self.options = _options(limits)
        """What is set on every handle."""
        self.sink = sink
        self._poll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._note_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._note_timer)
        self._timer: float | None = None
        self._next_look = 0.0
        self.to_watch: list[_Transfer] = []
        """Requests that have paused because the size of their body must be watched."""
        self._active: dict[int, _Transfer] = {}
        self._most_active = 0
        self._idle: list[_Transfer] = []
        self._by_handle: dict[pycurl.Curl, _Transfer] = {}
        self._inflations: dict[int, Inflation] = {}

    def watch(self, descriptor: int, on_readable: Callable[[], object]) -> None:
        """Let `run_once` call `on_readable` when the descriptor can be read."""
        self._watched[descriptor] = on_readable
        self._poll.register(descriptor, select.EPOLLIN)

    def start(self, job: int, order: Get) -> None:
        """Begin a request."""
        transfer = self._idle.pop() if self._idle else _Transfer(self)
        try:
            transfer.begin(job, order)
        except (pycurl.error, UnicodeEncodeError, ValueError):
            self._idle.append(transfer)
            self.sink.ended(job, Broken(Verdict.NOT_ASKED, Reason.INVALID_URL, "its host cannot be asked", 0))
            return
        self._active[job] = self._by_handle[transfer.curl] = transfer
        if len(self._active) > self._most_active:
            self._most_active = len(self._active)
            self._multi.setopt(pycurl.M_MAXCONNECTS, self._most_active + SPARE_CONNECTIONS)
        self._multi.add_handle(transfer.curl)

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
        while self.to_watch:
            transfer = self.to_watch.pop()
            if transfer.job in self._active:
                transfer.watch()
                self._go_on(transfer)

    def _go_on(self, transfer: _Transfer) -> None:
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

    def _end(self, transfer: _Transfer, broken: Broken | None) -> None:
        self._multi.remove_handle(transfer.curl)
        del self._active[transfer.job], self._by_handle[transfer.curl]
        job, outcome = transfer.job, transfer.outcome(broken)
        codings, granted = transfer.codings, transfer.granted
        transfer.forget()
        if len(self._idle) < KEPT_HANDLES:
            self._idle.append(transfer)
        if not isinstance(outcome, list):
            self.sink.ended(job, outcome)
        elif codings:
            self._inflate(job, Inflation(outcome, codings, max_bytes=self.limits.max_bytes), granted)
        else:
            self.sink.fetched(job, outcome)

    def _inflate(self, job: int, inflation: Inflation, granted: int) -> None:
        """Go on to inflate a body that has arrived, until it is whole or needs more bytes than were granted."""
        try:
            needed = inflation.advance(granted)
        except ImageFailed as failed:
            self.sink.ended(job, Broken(Verdict.FINAL, failed.reason, failed.detail, 0))
            return
        if needed:
            self._inflations[job] = inflation
            self.sink.need(job, needed, is_first=False)
        else:
            self.sink.fetched(job, inflation.pieces)

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


class _Transfer:
    """One handle of libcurl, for one request after the other.

    libcurl calls back for every 16 KB of a body and for every header. Each call needs Python's lock, which the decoding
    thread uses too. So a body that is expected goes straight into a list (`list.append` runs no Python code). Any other
    body pauses before its first byte, until `Transfers` puts `_receive` in charge of it.
    """

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._limits = transfers.limits
        self._pieces: list[bytes] = []
        self._opened: list[socket.socket] = []
        self.curl = pycurl.Curl()
        for option, value in transfers.options:
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._receive_header)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self._options: dict[int, object] = {}
        self._first_letters = _FIRST_LETTERS
        self._is_watched = False
        self._checks_certificate = True
        self.job = 0
        self.asked = ""
        """The host as messages name it."""
        self._is_guarded = False
        self.forget()

    def forget(self) -> None:
        """Drop everything that belongs to the last request."""
        for opened in self._opened:
            opened.close()
        self._opened.clear()
        self._pieces.clear()
        self._received = 0
        self.granted = 0
        self._own_end: Broken | None = None
        self._is_forbidden = False
        self._paused_at: float | None = None
        self._drain_until: float | None = None
        self._forget_answer()

    def _forget_answer(self) -> None:
        self._status = 0
        self._length: int | None = None
        self._is_chunked = False
        self._location = self._retry_after = self._content_range = self._tag = ""
        self._cookies: tuple[str, ...] = ()
        self.codings: tuple[str, ...] = ()
        """How the body is compressed."""
        self._is_part = False
        self._has_all_headers = False

    def begin(self, job: int, order: Get) -> None:
        """Prepare the handle for a request. Raises pycurl.error for a URL that libcurl does not take."""
        self.job = job
        self.asked = f"{order.host} through the proxy" if order.proxy else order.host
        self.granted = order.granted_bytes
        self._is_probe = order.is_probe
        self._wanted = WantedRange(order.first, order.length, order.tag) if order.length else None
        self._is_guarded = order.is_guarded
        if self._is_watched:
            self._is_watched = False
            self.curl.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        self.curl.setopt(pycurl.URL, order.url)
        name = f"[{order.host}]" if ":" in order.host else order.host
        # libcurl changes the letters of percent-encoded bytes, but the request must be as it is written.
        self._set(pycurl.REQUEST_TARGET, _target(order) if "%" in order.url else None)
        self._set(pycurl.RANGE, f"{self._wanted.first}-{self._wanted.last}" if self._wanted else None)
        self._set(pycurl.PROXY, order.proxy)
        self._set(pycurl.COOKIE, order.cookie.encode("latin-1") if order.cookie else None)
        if order.checks_certificate is not self._checks_certificate:
            # libcurl shares no connection between requests that check the certificate and others.
            self._checks_certificate = order.checks_certificate
            self.curl.setopt(pycurl.SSL_VERIFYPEER, int(order.checks_certificate))
            self.curl.setopt(pycurl.SSL_VERIFYHOST, 2 if order.checks_certificate else 0)
        # libcurl shares a connection only among requests that connect to the same name.
        place = f"{order.host.replace(':', '-')}.guarded.invalid" if order.is_guarded else name
        self._set(pycurl.CONNECT_TO, [f"::{place}:{order.port}"] if order.is_guarded else None)
        if addresses := order.addresses or ((order.host,) if order.is_guarded else ()):
            listed = ",".join(f"[{each}]" if ":" in each else each for each in addresses)
            # With the plus, libcurl forgets the addresses after a minute, else its memory would grow with every host.
            # So they are given each time.
            self.curl.setopt(pycurl.RESOLVE, [f"+{place}:{order.port}:{listed}"])
        self._began = self._heard = time.monotonic()
        self._deadline = self._began + self._limits.request_seconds

    def _set(self, option: int, value: object) -> None:
        if self._options.get(option) != value:
            self._options[option] = value
            if value is None:  # pycurl ignores an empty list
                self.curl.unsetopt(option)
            else:
                self.curl.setopt(option, value)

    def watch(self) -> None:
        """Receive the body with a look at its size. libcurl allows this change only outside of its callbacks."""
        self._is_watched = True
        self.curl.setopt(pycurl.WRITEFUNCTION, self._receive)

    def note_grant(self, size: int) -> bool:
        """Let the body grow to `size` bytes. Return whether the request has paused."""
        self.granted = size
        if self._paused_at is None:
            return False
        waited = time.monotonic() - self._paused_at
        self._paused_at = None
        self._deadline += waited
        self._heard += waited
        return True

    def _note_pieces(self, now: float) -> None:
        """Notice what has arrived without `_receive`."""
        if not self._is_watched and (received := sum(map(len, self._pieces))) > self._received:
            self._received, self._heard = received, now

    def _join_small_pieces(self) -> None:
        """Let a body that comes in chunks of a few bytes take little more memory than its size."""
        if (count := len(self._pieces)) > MANY_PIECES and self._received < count * SMALL_PIECE_BYTES:
            self._pieces[:] = [b"".join(self._pieces)]

    def overdue(self, now: float) -> Broken | None:
        """Return how the request ends if it has taken too long, else None."""
        self._note_pieces(now)
        self._join_small_pieces()
        if self._paused_at is not None:
            return None
        if self._drain_until is not None:
            return self._broken("took too long") if now >= self._drain_until else None
        if now >= self._deadline:
            return self._broken("took too long")
        if now - self._heard >= self._limits.read_seconds and self.curl.getinfo(pycurl.PRETRANSFER_TIME) > 0:
            # The time to connect has a limit of its own, which libcurl watches.
            since = max(self._heard, self._began + self.curl.getinfo(pycurl.PRETRANSFER_TIME))
            return self._broken("sent nothing for too long") if now - since >= self._limits.read_seconds else None
        return None

    def _broken(self, what: str) -> Broken:
        return Broken(Verdict.MAY_PASS, Reason.TIMEOUT, f"{self.asked} {what}", self._received)

    def outcome(self, broken: Broken | None) -> list[bytes] | Answered | Broken:
        """Return the body, or how the request ended. `broken` is how it ended for libcurl, None if it succeeded."""
        self._note_pieces(0.0)
        if self._own_end is not None:
            return self._own_end._replace(received_bytes=self._received)
        if self._is_forbidden:
            detail = f"{self.asked} has an address that is not public"
            return Broken(Verdict.NOT_ASKED, Reason.FORBIDDEN_HOST, detail, self._received)
        if self._has_all_headers and (self._status != 200 or self._is_probe):
            return Answered(self._status, self._location, self._retry_after, self._received, self._cookies)
        if broken is not None:
            return broken._replace(received_bytes=self._received)
        self._join_small_pieces()
        return self._incomplete() or self._pieces.copy()

    def _incomplete(self) -> Broken | None:
        """Return what is missing of an answer that succeeded for libcurl, None if nothing is."""
        if not self._has_all_headers:  # libcurl takes headers without an end for an empty answer
            detail = f"{self.asked}: the answer broke off"
            return Broken(Verdict.MAY_PASS, Reason.CONNECTION_FAILED, detail, self._received, is_hosts_fault=True)
        if self._wanted is not None and self._received != self._wanted.length:
            detail = f"{self.asked}: the answer has {self._received} bytes, and {self._wanted.length} were asked for"
            return Broken(Verdict.MAY_PASS, Reason.CONNECTION_FAILED, detail, self._received, is_hosts_fault=True)
        return None

    # Called by libcurl

    def _receive_header(self, line: bytes) -> int | None:
        if self._has_all_headers:
            return None  # a trailer, or the empty line again, after `watch`
        self._heard = time.monotonic()
        if not self._status:
            # The first line. A later one may look like it, but libcurl does not heed that one either.
            self._status = _status(line)
            usual = _FIRST_LETTERS if self._wanted is None else _FIRST_LETTERS_OF_PART
            self._first_letters = _FIRST_LETTERS_OF_REDIRECT if self._status in REDIRECTS else usual
            return None
        if line[0] not in self._first_letters:
            return None
        if line in {b"\r\n", b"\n"}:
            return self._end_headers()
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length":
                self._length = _number(value) if value.strip().isdigit() else None
            case b"transfer-encoding":
                self._is_chunked = True
            case b"location":
                self._location = value.strip().decode("utf-8", "surrogateescape")
            case b"retry-after":
                self._retry_after = value.strip().decode("latin-1")[:200]
            case b"set-cookie" | b"content-encoding" | b"content-range" | b"etag" as rare:
                self._note_rare_header(rare, value)
        return None

    def _note_rare_header(self, name: bytes, value: bytes) -> None:
        if name == b"content-encoding":
            self.codings = (codings_of(value.decode("latin-1")) + self.codings)[:MAX_CODINGS]
        elif name == b"content-range":
            self._content_range = value.strip().decode("latin-1")
            whole = _WHOLE.fullmatch(value)
            self._is_part = whole is None or _number(whole[1]) + 1 != _number(whole[2])
        elif name == b"etag":
            self._tag = value.strip().decode("latin-1").removeprefix("W/").strip('"')
        else:
            cookies = (*self._cookies, value.strip().decode("latin-1"))
            if sum(map(len, cookies)) + COOKIE_OVERHEAD * len(cookies) <= MAX_COOKIE_CHARS:
                self._cookies = cookies

    def _end_headers(self) -> int | None:
        if self._status < 200 and self._status != 101:
            self._forget_answer()  # an interim one, which another follows; after 101 nothing in HTTP does
            return None
        self._has_all_headers = True
        is_success = 200 < self._status < 300 and self._status not in _WITHOUT_PICTURE and not self._is_part
        if is_success and self._wanted is None:
            self._status = 200  # browsers show a picture whatever the success is called
        if self._is_probe or (self._wanted is not None and not self._take_range(self._wanted)):
            return -1
        if self._status == 200 and self._length is not None:
            if self._length > self._limits.max_bytes:
                self._refuse(f"{self._length} bytes announced")
                return -1
            if self._length <= self.granted and not self._is_chunked:
                return None
        if self._status != 200:
            self._drain_until = self._heard + DRAIN_SECONDS
        self._transfers.to_watch.append(self)
        return int(pycurl.WRITEFUNC_PAUSE)

    def _take_range(self, wanted: WantedRange) -> bool:
        """Go on as with the whole content if the answer is the range. Return False if it is refused."""
        head = AnswerHead(self._status, self._length, self._content_range, self._tag, bool(self.codings))
        self._own_end = wanted.refusal(head, asked=self.asked)
        if self._own_end is None and self._status == 206:
            self._status, self._length = 200, wanted.length
        return self._own_end is None

    def _receive(self, piece: bytes) -> int | None:
        if self._drain_until is not None:
            self._received += len(piece)
            return 0 if self._received > DRAINED_BYTES else None
        # A chunked body may be longer than its header Content-Length says.
        size = max(self._received + len(piece), self._length or 0)
        if size > self._limits.max_bytes:
            self._refuse(f"more than {self._limits.max_bytes} bytes")
            return 0
        if self._length is None and not self._received:
            size = max(size, min(UNANNOUNCED_BYTES, self._limits.max_bytes))
        if size > self.granted:
            # Nothing of the body is kept yet, or it has outgrown its bytes.
            self._paused_at = time.monotonic()
            self._transfers.sink.need(self.job, size, is_first=not self._received)
            return int(pycurl.WRITEFUNC_PAUSE)
        self._heard = time.monotonic()
        self._received += len(piece)
        self._pieces.append(piece)
        return None

    def _refuse(self, found: str) -> None:
        limit = self._limits.max_bytes
        detail = found if found.endswith(f"{limit} bytes") else f"{found}, the limit is {limit}"
        self._own_end = Broken(Verdict.FINAL, Reason.TOO_LARGE, detail, 0)

    def _open_socket(self, _: int, address: tuple[int, int, int, tuple[Any, ...]]) -> socket.socket | int:
        family, kind, protocol, place = address
        if self._is_guarded and not is_public_address(_text(place[0])):
            # The worker has checked the addresses. This holds even if libcurl took another one.
            self._is_forbidden = True
            return int(pycurl.SOCKET_BAD)
        try:
            # pycurl duplicates the descriptor, so this one is closed when the request is over.
            self._opened.append(socket.socket(family, kind, protocol))
            return self._opened[-1]
        except OSError as error:
            self._own_end = Broken(
                Verdict.MACHINE,
                Reason.CONNECTION_FAILED,
                f"no connection could be opened: {error}; lower EMBEDDER_FETCH_CONCURRENCY",
                0,
            )
            return int(pycurl.SOCKET_BAD)


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


def _target(order: Get) -> str:
    """Return what the request line asks for: path and query, or the whole URL where a proxy must know the server."""
    scheme, _, rest = order.url.partition("://")
    server, _, path = rest.partition("/")
    return f"{scheme}://{server.rpartition('@')[2]}/{path}" if order.proxy and scheme == "http" else f"/{path}"


def _status(line: bytes) -> int:
    """Return the status of an answer's first line, _UNREADABLE_STATUS if it has none."""
    if line.startswith(b"HTTP/1.1 200 "):  # nearly all
        return 200
    status = _STATUS.match(line)
    return int(status[1]) if status else _UNREADABLE_STATUS


def _number(text: bytes) -> int:
    digits = text.strip().lstrip(b"0")[:20]  # more than any length has
    return int(digits) if digits.isdigit() else 0


def _text(address: object) -> str:
    text = address.decode() if isinstance(address, bytes) else str(address)
    return str(ipaddress.ip_address(text)) if "%" not in text else text
