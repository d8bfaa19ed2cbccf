"""Undoes the compression of an answer's body (Content-Encoding). Servers compress although no request asks for it."""

from __future__ import annotations

import zlib
from collections import deque
from typing import TYPE_CHECKING

from common.format.reasons import Reason
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_CODINGS = 3
"""Largest number of codings of one body. More are not undone."""

_GZIP_MAGIC = b"\x1f\x8b"
_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}

_AUTOMATIC, _ZLIB, _RAW = zlib.MAX_WBITS | 32, zlib.MAX_WBITS, -zlib.MAX_WBITS

MAX_MEMBERS = 10_000
"""Largest number of pieces of gzip, each whole in itself, of one body. Programs that write several give each 64 KiB or
more. Each takes 0.1 ms, in which the decoder's other requests wait."""

STEP_BYTES = 16 << 10
"""Smallest number of bytes of output in one step, because each step copies what is left of the input."""

TRIED_BYTES = 1024
"""Number of bytes by which it is tried whether data is compressed at all."""


def codings_of(header: str) -> tuple[str, ...]:
    """Return the codings that a Content-Encoding header names and that can be undone, in the order of undoing.

    Others are ignored: identity, aws-chunked, and what servers write there by mistake.
    """
    names = [each.strip().lower() for each in header.split(",")]
    found = tuple(_CODINGS[name] for name in reversed(names) if name in _CODINGS)
    return found if len(found) <= MAX_CODINGS else ()


class Inflation:
    """The body of one answer, which is inflated in steps, each within the bytes that the image may hold.

    A body that is not compressed as its header says stays as it is. Bytes of the input are freed as they are used, so
    the image holds little more than its inflated size.
    """

    def __init__(self, pieces: list[bytes], codings: Sequence[str], *, max_bytes: int) -> None:
        self._codings = deque(codings)
        self._max_bytes = max_bytes
        self._output = pieces
        self._input: deque[bytes] = deque()
        self._stream: zlib._Decompress | None = None
        self._coding = ""
        self._inflated = 0
        self._member_count = 0
        self._as_sent: list[bytes] = []
        """The pieces as they were sent, until the first byte is inflated."""

    @property
    def pieces(self) -> list[bytes]:
        """The inflated body, once `advance` has returned 0."""
        return self._output

    def advance(self, granted: int) -> int:
        """Inflate until the image holds `granted` bytes. Return how many bytes it needs to go on, 0 once it is whole.

        Raises ImageFailed (too_large, corrupt).
        """
        while self._stream is not None or self._begin():
            held = self._inflated + sum(map(len, self._input))
            # An image with all the bytes that one may hold gets no more. Its input is used up while it grows.
            room = self._max_bytes + 1 - self._inflated if granted >= self._max_bytes else granted - held
            if room < STEP_BYTES and granted < self._max_bytes:
                return min(held + STEP_BYTES, self._max_bytes)
            self._inflate(room)
        return 0

    def _begin(self) -> bool:
        """Begin to undo the next coding. Return whether there is one."""
        while self._codings:
            self._coding = self._codings.popleft()
            self._stream = _stream(self._coding, _head(self._output, TRIED_BYTES))
            if self._stream is not None:
                self._as_sent, self._input = self._output, deque(self._output)
                self._output, self._inflated = [], 0
                return True
        return False

    def _inflate(self, room: int) -> None:
        """Use the next piece of the input for at most `room` bytes of output."""
        stream = self._stream
        if stream is None:
            return
        piece = self._input.popleft() if self._input else b""
        try:
            output = stream.decompress(piece, room)
        except zlib.error as error:
            raise ImageFailed(Reason.CORRUPT, f"its {self._coding} data, in which it was sent, is damaged") from error
        if output:
            self._as_sent = []
            self._output.append(output)
            self._inflated += len(output)
        if self._inflated > self._max_bytes:
            detail = f"more than {self._max_bytes} bytes once its {self._coding} data is inflated"
            raise ImageFailed(Reason.TOO_LARGE, detail)
        if stream.eof:
            self._end_member(stream.unused_data)
        elif stream.unconsumed_tail:
            self._input.appendleft(stream.unconsumed_tail)
        elif not piece and not output:
            self._end()  # it is truncated, and what there is may show a picture
            self._output = self._output or self._as_sent

    def _end_member(self, rest: bytes) -> None:
        """Go on with what follows a whole piece of compressed data: another one in gzip, else nothing that counts."""
        if rest:
            self._input.appendleft(rest)
        if _head(self._input, len(_GZIP_MAGIC)) == _GZIP_MAGIC:
            self._member_count += 1
            if self._member_count >= MAX_MEMBERS:
                raise ImageFailed(Reason.CORRUPT, f"it was sent in more than {MAX_MEMBERS} pieces of gzip data")
            self._stream = zlib.decompressobj(_AUTOMATIC)
        else:
            self._end()

    def _end(self) -> None:
        self._stream = None
        self._input.clear()


def _head(pieces: Iterable[bytes], size: int) -> bytes:
    """Return the first `size` bytes of a body in pieces."""
    head = b""
    for piece in pieces:
        head += piece[: size - len(head)]
        if len(head) == size:
            break
    return head


def _stream(coding: str, head: bytes) -> zlib._Decompress | None:
    """Return what inflates data that begins with `head`, None if it is not compressed."""
    if head[:2] == _GZIP_MAGIC:
        return zlib.decompressobj(_AUTOMATIC)
    if coding == "gzip":
        return None
    # "deflate" means zlib's format, and some servers send the bare data in it.
    for bits in (_ZLIB, _RAW):
        try:
            tried = zlib.decompressobj(bits).decompress(head, TRIED_BYTES)
        except zlib.error:
            continue
        if tried:
            return zlib.decompressobj(bits)
    return None
