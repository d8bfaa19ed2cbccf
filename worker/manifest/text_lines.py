"""Lines of a text that is read in ranges: a chunk has the lines whose first byte lies in its byte range."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.manifest.byte_source import HEAD_BYTES, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.byte_source import ByteSource

MAX_LINE_BYTES = 1 << 20
"""A longer line is no row that anybody wrote; it is not kept in memory."""

KEPT_BYTES = 1000
"""Of a line that is too long: enough for the excerpt in its record."""

OVERLAP_BYTES = 4096
"""Read beyond a chunk at once, since its last line usually ends there."""

BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    offset: int
    """Of its first byte in the manifest."""
    data: bytes
    """Without the line break."""
    is_whole: bool
    """False for a line of more than MAX_LINE_BYTES, of which `data` is the start."""
    end: int
    """Offset of what follows a whole line."""

    @property
    def where(self) -> str:
        return f"line at byte {self.offset}"


def read_lines(source: ByteSource, *, first: int, start: int, end: int) -> Iterator[Line]:
    """Yield the lines of the text from byte `first` on whose first byte lies in [start, end); blank lines are none."""
    start = max(start, first)
    if start >= end:
        return
    # The byte before tells whether a line begins at `start`; what comes before the first line break is not ours.
    is_ours = start == first
    line_start = position = start if is_ours else start - 1
    pending = b""
    dropped = 0  # bytes of the line in `pending` that are no longer there
    for block in blocks(source, position, end, overlap=OVERLAP_BYTES):
        position += len(block)
        pieces = (pending + block).split(b"\n")
        pending = pieces.pop()
        for piece in pieces:
            if is_ours and (line := _line(line_start, piece, dropped)):
                yield line
            is_ours = True
            line_start += dropped + len(piece) + 1
            dropped = 0
            if line_start >= end:
                return
        if len(pending) + dropped > MAX_LINE_BYTES:
            dropped += len(pending[KEPT_BYTES:])
            pending = pending[:KEPT_BYTES]
            if position >= end:
                break  # wherever this line ends, the next one is another chunk's
        elif not is_ours and position >= end:
            return
    if is_ours and (line := _line(line_start, pending, dropped)):
        yield line


def _line(offset: int, data: bytes, dropped: int) -> Line | None:
    end = offset + len(data) + dropped + 1
    if len(data) + dropped > MAX_LINE_BYTES:
        return Line(offset, data[:KEPT_BYTES], is_whole=False, end=end)
    return Line(offset, data.rstrip(b"\r"), is_whole=True, end=end) if data.strip() else None


def text_start(source: ByteSource) -> int:
    """Return where the text begins: after a byte order mark."""
    return len(BOM) if source.read(0, min(len(BOM), source.size)) == BOM else 0


def head_lines(source: ByteSource) -> Iterator[Line]:
    """Yield the lines that begin in the part of the text that a source has at hand."""
    first = text_start(source)
    return read_lines(source, first=first, start=first, end=min(source.size, HEAD_BYTES - OVERLAP_BYTES))
