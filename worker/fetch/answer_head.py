"""The head of an answer, read line by line."""

from __future__ import annotations

import re

from worker.fetch.chain_cookies import COOKIE_OVERHEAD, MAX_COOKIE_CHARS
from worker.fetch.inflation import MAX_CODINGS, codings_of

FIRST_LETTERS = frozenset(b"CcLlRrTt\r\n")
"""First bytes of the headers that are read, and of the empty line after them."""

FIRST_LETTERS_OF_REDIRECT = FIRST_LETTERS | frozenset(b"Ss")
"""The same for a redirect, whose cookies count."""

FIRST_LETTERS_OF_PART = FIRST_LETTERS | frozenset(b"Ee")
"""The same for a part of a file, whose ETag counts."""

_STATUS = re.compile(rb"\S+\s+([1-9][0-9]{2})")
"""The start of an answer's first line, up to its status."""

_UNREADABLE_STATUS = 999

_WITHOUT_PICTURE = {204, 205}
"""The statuses of success that have no body."""

_WHOLE = re.compile(rb"\s*bytes\s+0-(\d+)/(\d+)\s*")
"""The header Content-Range of a part that begins with the first byte."""


class AnswerHead:
    """What the lines that have arrived say."""

    __slots__ = (
        "_is_part",
        "codings",
        "content_range",
        "cookies",
        "is_chunked",
        "length",
        "location",
        "retry_after",
        "status",
        "tag",
    )

    def __init__(self) -> None:
        self.status = 0
        """0 before the first line. `Transfer` sets it to 200 if the body is what was asked for."""
        self.length: int | None = None
        """The header Content-Length, None if there is none."""
        self.is_chunked = False
        self.location = self.retry_after = self.content_range = ""
        self.tag = ""
        """The ETag without quotes, an empty text if there is none."""
        self.cookies: tuple[str, ...] = ()
        self.codings: tuple[str, ...] = ()
        """How the body is compressed."""
        self._is_part = False

    @property
    def is_interim(self) -> bool:
        """Whether another head follows. After 101 nothing in HTTP does."""
        return self.status < 200 and self.status != 101

    @property
    def is_picture(self) -> bool:
        """Whether the body is the whole picture. Browsers show it whatever the success is called."""
        return 200 <= self.status < 300 and self.status not in _WITHOUT_PICTURE and not self._is_part

    def note_status(self, line: bytes) -> None:
        """Take over the first line."""
        self.status = _status(line)

    def note_header(self, line: bytes) -> None:
        """Take over a header, if it is one of those that count."""
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length":
                self.length = _number(value) if value.strip().isdigit() else None
            case b"transfer-encoding":
                self.is_chunked = True
            case b"location":
                self.location = value.strip().decode("utf-8", "surrogateescape")
            case b"retry-after":
                self.retry_after = value.strip().decode("latin-1")[:200]
            case b"set-cookie":
                cookies = (*self.cookies, value.strip().decode("latin-1"))
                if sum(map(len, cookies)) + COOKIE_OVERHEAD * len(cookies) <= MAX_COOKIE_CHARS:
                    self.cookies = cookies
            case b"content-encoding":
                self.codings = (codings_of(value.decode("latin-1")) + self.codings)[:MAX_CODINGS]
            case b"content-range":
                self.content_range = value.strip().decode("latin-1")
                whole = _WHOLE.fullmatch(value)
                self._is_part = whole is None or _number(whole[1]) + 1 != _number(whole[2])
            case b"etag":
                self.tag = value.strip().decode("latin-1").removeprefix("W/").strip('"')


def _status(line: bytes) -> int:
    """Return the status of an answer's first line, _UNREADABLE_STATUS if it has none."""
    if line.startswith(b"HTTP/1.1 200 "):  # nearly all
        return 200
    status = _STATUS.match(line)
    return int(status[1]) if status else _UNREADABLE_STATUS


def _number(text: bytes) -> int:
    digits = text.strip().lstrip(b"0")[:20]  # more than any length has
    return int(digits) if digits.isdigit() else 0
