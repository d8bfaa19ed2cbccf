"""Reads what is needed of the manifest's files in order, a few pieces ahead of whoever needs them."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple, Self

from worker.manifest.places.byte_source import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from worker.manifest.places.byte_source import ByteSource

BYTES_AHEAD = 4 * BLOCK_BYTES
"""Number of bytes that are read ahead. One answer of S3 brings 50 to 100 MB a second, and a GPU takes more, so several
requests are made at the same time."""

PIECES_AHEAD = 32
"""Largest number of pieces that are read at the same time. Small pictures in files of their own need many, because each
takes the time of a request."""


class Piece(NamedTuple):
    """A part of a file, of at most BLOCK_BYTES."""

    source: ByteSource
    start: int
    end: int


def pieces(source: ByteSource, start: int, end: int) -> Iterator[Piece]:
    """Yield the pieces of a range, in order."""
    for first in range(start, end, BLOCK_BYTES):
        yield Piece(source, first, min(first + BLOCK_BYTES, end))


class ReadAhead:
    """Gives out ranges of the pieces that it is created with. Use it as a context manager, from one thread.

    Whoever reads must read in the order of the pieces, and may leave some out.
    """

    def __init__(self, wanted: Iterable[Piece]) -> None:
        self._wanted = iter(wanted)
        self._next = next(self._wanted, None)
        self._threads = ThreadPoolExecutor(PIECES_AHEAD, thread_name_prefix="read-ahead")
        self._begun: deque[tuple[Piece, Future[bytes]]] = deque()
        self._bytes_begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def read(self, source: ByteSource, start: int, length: int) -> bytearray:
        """Return `length` bytes of the source from `start` on. Raises as `ByteSource.read`."""
        data = bytearray(length)
        filled = 0
        while filled < length:
            piece, found = self._piece_at(source, start + filled)
            block = memoryview(found.result())[start + filled - piece.start : start + length - piece.start]
            data[filled : filled + len(block)] = block
            filled += len(block)
        return data

    def _piece_at(self, source: ByteSource, position: int) -> tuple[Piece, Future[bytes]]:
        """Return the piece that holds the byte at `position`, and forget those before it."""
        while True:
            self._begin_more()
            if not self._begun:
                raise LookupError(f"byte {position} of {source.name} is in none of the pieces that are left")
            piece, found = self._begun[0]
            if piece.source is source and piece.start <= position < piece.end:
                return piece, found
            self._begun.popleft()
            self._bytes_begun -= piece.end - piece.start

    def _begin_more(self) -> None:
        while (piece := self._next) is not None and len(self._begun) < PIECES_AHEAD:
            size = piece.end - piece.start
            if self._begun and self._bytes_begun + size > BYTES_AHEAD:
                return
            before = None
            if not piece.source.is_direct:
                # A server without ranges, or a library's file, gives one piece after the other.
                before = next((each for other, each in reversed(self._begun) if other.source is piece.source), None)
            self._begun.append((piece, self._threads.submit(_read, piece, before)))
            self._bytes_begun += size
            self._next = next(self._wanted, None)


def _read(piece: Piece, before: Future[bytes] | None) -> bytes:
    if before is not None:
        wait([before])  # it has begun, because the threads take the pieces in their order
    return piece.source.read(piece.start, piece.end - piece.start)
