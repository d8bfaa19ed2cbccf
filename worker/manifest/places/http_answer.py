"""One answer of an HTTP server to a request for a range."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError

from worker.manifest.places.byte_source import BLOCK_BYTES

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")


class HttpFault(Exception):
    """A request failed, and the same request may succeed later."""

    def __init__(self, message: str, *, asked_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.asked_seconds = asked_seconds
        """The pause that the server asked for with Retry-After."""


class HttpAnswer:
    """An answer that holds a range of the content, or all of the content. It is read from front to back, once."""

    is_whole: bool
    """Whether the answer holds all of the content, because the server ignores Range."""
    size: int | None
    """Size of the whole content in bytes; None when the answer does not say."""
    tag: str
    """The content's ETag, else the date of its last change, else an empty text."""
    position: int
    """Offset in the content of the next byte that is read."""

    def __init__(self, response: BaseHTTPResponse, *, start: int) -> None:
        """Take the response, of status 200, 206 or 416, to a request for the range from byte `start` on.

        Raises HttpFault when the response holds another range.
        """
        self._response = response
        self.is_whole = response.status == 200
        self.position = 0 if self.is_whole else start
        self.tag = _tag(response)
        if self.is_whole:
            self.size = _content_length(response)
        elif response.status == 416 and start == 0:
            # Even the range from byte 0 on is unsatisfiable, so the content has no byte. The body is an error page.
            self.size = 0
            self.close()
        else:
            self.size = self._range_size(start)

    def read(self, length: int) -> bytes:
        """Return up to `length` bytes, none at the end of the answer. Raises HttpFault if the answer breaks off."""
        if self.size == 0:
            return b""
        try:
            block = self._response.read(length, decode_content=False)
        except HTTPError as error:
            self.close()
            raise HttpFault(f"the answer broke off: {type(error).__name__}") from error
        self.position += len(block)
        return block

    def read_next(self, length: int) -> bytes:
        """Return up to `length` bytes and at least one. Raises HttpFault if the answer ends or breaks off."""
        block = self.read(length)
        if not block:
            raise HttpFault(f"the answer broke off at byte {self.position}")
        return block

    def skip_to(self, position: int) -> None:
        """Read and drop the bytes before byte `position`. Raises HttpFault if the answer ends before it."""
        while self.position < position:
            self.read_next(min(BLOCK_BYTES, position - self.position))

    def skip_to_end(self) -> None:
        while self.read(BLOCK_BYTES):
            pass

    def check_end(self) -> None:
        """Raise HttpFault if the answer has more bytes."""
        if self.read(1):
            self.close()
            raise HttpFault("the answer is longer than the range asked for")

    def close(self) -> None:
        self._response.close()

    def _range_size(self, start: int) -> int:
        header = self._response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(header.strip())
        if self._response.status != 206 or match is None or int(match[1]) != start:
            self.close()
            raise HttpFault(
                f"asked for bytes from {start} on, the answer is HTTP {self._response.status} with range {header!r}"
            )
        return int(match[2])


def _content_length(response: BaseHTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if _CONTENT_LENGTH.fullmatch(length) else None


def _tag(response: BaseHTTPResponse) -> str:
    if etag := response.headers.get("ETag", "").removeprefix("W/").strip('"'):
        return f"etag {etag}"
    if date := response.headers.get("Last-Modified"):
        return f"modified {date}"
    return ""
