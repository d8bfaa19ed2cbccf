"""One request of libcurl: what is set for it, what arrives, and how it ends."""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pycurl

from common.format.reasons import Reason
from worker.fetch.answer_head import FIRST_LETTERS, FIRST_LETTERS_OF_PART, FIRST_LETTERS_OF_REDIRECT, AnswerHead
from worker.fetch.public_address import is_public_address
from worker.fetch.statuses import REDIRECTS
from worker.fetch.transport import Answered, Broken, Verdict
from worker.fetch.wanted_range import WantedRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.fetch.transport import Get

UNANNOUNCED_BYTES = 1 << 20
"""Number of bytes that a body of unknown length has at first."""

DRAINED_BYTES = 64 << 10
"""Number of bytes of an unwanted body that are read, so that its connection can be used again."""

DRAIN_SECONDS = 0.5
"""Longest time to read an unwanted body, in seconds."""

MANY_PIECES = 1000
"""Number of pieces of a body from which it counts whether they are small."""

SMALL_PIECE_BYTES = 1024
"""Average size in bytes below which the pieces of a body are joined: each takes some 50 bytes beside its own."""


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


class Transfer:
    """One handle of libcurl, for one request after the other.

    libcurl calls back for every 16 KB of a body and for every header. Each call needs Python's lock, which the decoding
    thread uses too. So a body that is expected goes straight into a list (`list.append` runs no Python code). Any other
    body pauses before its first byte, and the transfer puts itself on the list `to_watch`: call `watch` for it, and
    let the handle go on.
    """

    def __init__(
        self, limits: TransferLimits, options: Iterable[tuple[int, object]], *, sink: Sink, to_watch: list[Transfer]
    ) -> None:
        self._limits = limits
        self._sink = sink
        self._to_watch = to_watch
        self._pieces: list[bytes] = []
        self._opened: list[socket.socket] = []
        self.curl = pycurl.Curl()
        for option, value in options:
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._receive_header)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self._options: dict[int, object] = {}
        self._first_letters = FIRST_LETTERS
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
        self.head = AnswerHead()
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
        # libcurl changes the letters of percent-encoded bytes, but the request must be as it is written. PycURL cannot
        # take a target back, so each later request of the handle has one too.
        if "%" in order.url or pycurl.REQUEST_TARGET in self._options:
            self._set(pycurl.REQUEST_TARGET, _target(order))
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
        head = self.head
        if self._has_all_headers and (head.status != 200 or self._is_probe):
            return Answered(head.status, head.location, head.retry_after, self._received, head.cookies)
        if broken is not None:
            return broken._replace(received_bytes=self._received)
        self._join_small_pieces()
        return self._incomplete() or self._pieces.copy()

    def _incomplete(self) -> Broken | None:
        """Return what is missing of an answer that succeeded for libcurl, None if nothing is."""
        if not self._has_all_headers:  # libcurl takes headers without an end for an empty answer
            detail = f"{self.asked}: the answer broke off"
        elif self._wanted is not None and self._received != self._wanted.length:
            detail = f"{self.asked}: the answer has {self._received} bytes, and {self._wanted.length} were asked for"
        else:
            return None
        return Broken(Verdict.MAY_PASS, Reason.CONNECTION_FAILED, detail, self._received, is_hosts_fault=True)

    # Called by libcurl

    def _receive_header(self, line: bytes) -> int | None:
        if self._has_all_headers:
            return None  # a trailer, or the empty line again, after `watch`
        self._heard = time.monotonic()
        head = self.head
        if not head.status:
            # The first line. A later one may look like it, but libcurl does not heed that one either.
            head.note_status(line)
            usual = FIRST_LETTERS if self._wanted is None else FIRST_LETTERS_OF_PART
            self._first_letters = FIRST_LETTERS_OF_REDIRECT if head.status in REDIRECTS else usual
            return None
        if line[0] not in self._first_letters:
            return None
        if line in {b"\r\n", b"\n"}:
            return self._end_headers(head)
        head.note_header(line)
        return None

    def _end_headers(self, head: AnswerHead) -> int | None:
        if head.is_interim:
            self.head = AnswerHead()
            return None
        self._has_all_headers = True
        if self._wanted is None and head.is_picture:
            head.status = 200
        if self._is_probe or (self._wanted is not None and not self._take_range(self._wanted, head)):
            return -1
        if head.status == 200 and head.length is not None:
            if head.length > self._limits.max_bytes:
                self._refuse(f"{head.length} bytes announced")
                return -1
            if head.length <= self.granted and not head.is_chunked:
                return None
        if head.status != 200:
            self._drain_until = self._heard + DRAIN_SECONDS
        self._to_watch.append(self)
        return int(pycurl.WRITEFUNC_PAUSE)

    def _take_range(self, wanted: WantedRange, head: AnswerHead) -> bool:
        """Go on as with the whole content if the answer is the range. Return False if it is refused."""
        self._own_end = wanted.refusal(head, asked=self.asked)
        if self._own_end is None and head.status == 206:
            head.status, head.length = 200, wanted.length
        return self._own_end is None

    def _receive(self, piece: bytes) -> int | None:
        if self._drain_until is not None:
            self._received += len(piece)
            return 0 if self._received > DRAINED_BYTES else None
        # A chunked body may be longer than its header Content-Length says.
        size = max(self._received + len(piece), self.head.length or 0)
        if size > self._limits.max_bytes:
            self._refuse(f"more than {self._limits.max_bytes} bytes")
            return 0
        if self.head.length is None and not self._received:
            size = max(size, min(UNANNOUNCED_BYTES, self._limits.max_bytes))
        if size > self.granted:
            # Nothing of the body is kept yet, or it has outgrown its bytes.
            self._paused_at = time.monotonic()
            self._sink.need(self.job, size, is_first=not self._received)
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


def _target(order: Get) -> str:
    """Return what the request line asks for: path and query, or the whole URL where a proxy must know the server."""
    scheme, _, rest = order.url.partition("://")
    server, _, path = rest.partition("/")
    return f"{scheme}://{server.rpartition('@')[2]}/{path}" if order.proxy and scheme == "http" else f"/{path}"


def _text(address: object) -> str:
    text = address.decode() if isinstance(address, bytes) else str(address)
    return str(ipaddress.ip_address(text)) if "%" not in text else text
