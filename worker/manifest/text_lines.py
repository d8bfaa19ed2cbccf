r"""Lines of a text that is read in ranges.

A line belongs to the chunk in whose byte range its first byte lies. A chunk needs to know nothing of the other chunks:

    bytes of chunk 0       bytes of chunk 1
    line 4\nline 5 is lo | ng\nline 6\nline 7

Line 5 begins in chunk 0, which reads beyond its end to complete the line. Chunk 1 begins with line 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from worker.manifest.byte_source import HEAD_BYTES, blocks
from worker.manifest.raw_rows import RowCount, chunk_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource

MAX_LINE_BYTES = 1 << 20
"""Size in bytes of the longest line that is kept in memory whole. A longer line is a row of the ledger."""

TOO_LONG = f"the line has more than {MAX_LINE_BYTES} bytes"
"""What the ledger says of a longer line."""

KEPT_BYTES = 1000
"""Number of bytes that are kept of a longer line, for the excerpt in the ledger."""

OVERLAP_BYTES = 4096
"""Number of bytes read beyond the end of a chunk in the chunk's last request. The last line usually ends there."""

COUNTED_BYTES = 1 << 20
"""Size in bytes of the largest text whose lines are counted one by one. A larger text is sampled."""

COUNT_SAMPLES = 16
"""Number of evenly spread samples from which the number of lines of a larger text is estimated."""

COUNT_SAMPLE_BYTES = 32_768
"""Size of such a sample in bytes."""

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark."""


class Line(NamedTuple):
    offset: int
    """Offset of the line's first byte in the manifest."""
    data: bytes
    """The line without its line break, or the start of a line that is not whole."""
    is_whole: bool
    """False for a line of more than MAX_LINE_BYTES."""
    end: int
    """Offset of the byte after the line break."""

    @property
    def text(self) -> str:
        """Return the line as text. Lone surrogates stand for bytes that are not UTF-8."""
        return self.data.decode(errors="surrogateescape")

    @property
    def is_utf8(self) -> bool:
        """Return whether the line is UTF-8 text."""
        try:
            self.data.decode()
        except UnicodeDecodeError:
            return False
        return True

    @property
    def where(self) -> str:
        """Return the line's place, for the ledger."""
        return f"line at byte {self.offset}"


def read_lines(source: ByteSource, *, first: int, start: int, end: int) -> Iterator[Line]:
    """Yield the lines whose first byte lies in [start, end), except blank lines. The text begins at byte `first`."""
    start = max(start, first)
    if start >= end:
        return
    # Reading begins one byte early: a line begins at `start` only if a line break lies before it. Everything up to the
    # first line break belongs to the chunk before.
    is_own = start == first
    line_start = position = start if is_own else start - 1
    pending = b""  # the bytes of the line at `line_start` so far
    dropped_bytes = 0  # number of bytes of this line that are not kept in `pending`
    for block in blocks(source, position, end, overlap=OVERLAP_BYTES):
        position += len(block)
        pieces = (pending + block).split(b"\n")
        pending = pieces.pop()
        for piece in pieces:
            if is_own and (line := _line(line_start, piece, dropped_bytes)):
                yield line
            is_own = True
            line_start += dropped_bytes + len(piece) + 1
            dropped_bytes = 0
            if line_start >= end:
                return
        if len(pending) + dropped_bytes > MAX_LINE_BYTES:
            dropped_bytes += len(pending[KEPT_BYTES:])
            pending = pending[:KEPT_BYTES]
            if position >= end:
                break  # wherever this line ends, the next line begins in another chunk
        elif not is_own and position >= end:
            return
    if is_own and (line := _line(line_start, pending, dropped_bytes)):
        yield line


def _line(offset: int, data: bytes, dropped_bytes: int) -> Line | None:
    """Return the line, None for a blank one."""
    end = offset + len(data) + dropped_bytes + 1
    if len(data) + dropped_bytes > MAX_LINE_BYTES:
        return Line(offset, data[:KEPT_BYTES], is_whole=False, end=end)
    return Line(offset, data.rstrip(b"\r"), is_whole=True, end=end) if data.strip() else None


def text_start(source: ByteSource) -> int:
    """Return the offset of the text's first byte: a byte order mark is skipped."""
    return len(BOM) if source.read(0, min(len(BOM), source.size)) == BOM else 0


def head_lines(source: ByteSource) -> Iterator[Line]:
    """Yield the lines that begin in the source's head."""
    first = text_start(source)
    return read_lines(source, first=first, start=first, end=min(source.size, HEAD_BYTES - OVERLAP_BYTES))


def count_lines(source: ByteSource, *, first: int) -> RowCount:
    """Return how many lines begin at byte `first` or later: counted in a small text, estimated from a sample else."""
    size = source.size - first
    if size <= COUNTED_BYTES:
        return RowCount(sum(1 for _ in read_lines(source, first=first, start=first, end=source.size)), is_exact=True)
    length = COUNT_SAMPLE_BYTES
    starts = [first + sample * (size - length) // (COUNT_SAMPLES - 1) for sample in range(COUNT_SAMPLES)]
    lines = sum(source.read(start, length).count(b"\n") for start in starts)
    return RowCount(round(size * lines / (length * COUNT_SAMPLES)), is_exact=False)


def spread_lines(source: ByteSource, *, first: int, count: int) -> Iterator[Line]:
    """Yield about `count` lines from all over the text, or all lines where there are fewer."""
    found = count_lines(source, first=first)
    if found.is_exact and found.rows <= count:
        yield from read_lines(source, first=first, start=first, end=source.size)
        return
    for index in range(count):
        share = chunk_range(source.size - first, index=index, count=count)
        start, stop = first + share.start, first + share.stop
        # The limit keeps the request small. Only a line that is longer has no chance to be found.
        line = next(read_lines(source, first=first, start=start, end=min(stop, start + HEAD_BYTES)), None)
        if line is not None:
            yield line


def check_has_rows(source: ByteSource, first: int) -> None:
    """Raise ManifestError when no line begins at byte `first` or later."""
    # A text that is larger than its head counts as having rows, because the search for a row could read all of it.
    if source.size > max(first, HEAD_BYTES):
        return
    if next(read_lines(source, first=first, start=first, end=source.size), None) is None:
        raise ManifestError(f"{source.name} has no rows")


class TextLines:
    """The lines of a manifest without header lines."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._source = sources[0]
        self._first = text_start(sources[0])

    def head(self) -> Iterator[Line]:
        """Yield the lines at the beginning of the manifest."""
        return head_lines(self._source)

    def read(self, index: int, count: int) -> Iterator[Line]:
        """Yield the lines of chunk `index` of `count`. The chunks divide all bytes of the manifest."""
        share = chunk_range(self._source.size, index=index, count=count)
        return read_lines(self._source, first=self._first, start=share.start, end=share.stop)

    def count(self) -> RowCount:
        """Return how many lines there are: counted in a small manifest, estimated else."""
        return count_lines(self._source, first=self._first)

    def spread(self, count: int) -> Iterator[Line]:
        """Yield about `count` lines from all over the manifest, or all lines where there are fewer."""
        return spread_lines(self._source, first=self._first, count=count)

    def check_has_rows(self) -> None:
        """Raise ManifestError when the manifest has no lines."""
        check_has_rows(self._source, self._first)
