r"""Lines of a text that is read in ranges.

A line belongs to the chunk in whose byte range its first byte lies. A chunk needs to know nothing of the other chunks:

    bytes of chunk 0       bytes of chunk 1
    line 4\nline 5 is lo | ng\nline 6\nline 7

Line 5 begins in chunk 0, which reads beyond its end to complete the line. Chunk 1 begins with line 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.manifest.places.byte_source import HEAD_BYTES, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.text.encoding import TextFile

MAX_LINE_BYTES = 1 << 20
"""Size in bytes of the longest line that is kept in memory whole. A longer line is a row of the ledger."""

TOO_LONG = f"the line has more than {MAX_LINE_BYTES} bytes"
"""What the ledger says of a longer line."""

KEPT_BYTES = 1000
"""Number of bytes that are kept of a longer line, for the excerpt in the ledger."""

OVERLAP_BYTES = 4096
"""Number of bytes read beyond the end of a chunk in the chunk's last request. The last line usually ends there."""

_BLANK = " \t\r\n\v\f"


class Line(NamedTuple):
    offset: int
    """Offset of the line's first byte in its file."""
    text: str
    """The line without its line break, or the start of a line that is not whole."""
    end: int
    """Offset of the byte after the line break."""
    is_utf8: bool
    """False for a line with bytes that are not text. Lone surrogates stand for them in `text`."""
    is_whole: bool
    """False for a line of more than MAX_LINE_BYTES."""
    place: str
    """What follows the offset in the ledger: the file's name, where the manifest has several."""

    @property
    def where(self) -> str:
        """Return the line's place, for the ledger."""
        return f"line at byte {self.offset}{self.place}"

    @property
    def is_blank(self) -> bool:
        return self.is_whole and not self.text.strip(_BLANK)


def read_lines(file: TextFile, start: int, end: int) -> Iterator[Line]:
    """Yield the lines whose first byte lies in [start, end), except blank lines."""
    for line in lines_from(file, start, end=end):
        if not line.is_blank:
            yield line
        if line.end >= end:
            return


def lines_from(file: TextFile, start: int, *, end: int) -> Iterator[Line]:
    """Yield the lines whose first byte lies at `start` or later, blank lines too. The caller may stop early.

    The bytes up to `end` are read in large blocks, those after it in small ones. There is no line when none begins
    before `end`, and none after a line of more than MAX_LINE_BYTES that goes on beyond `end`.
    """
    start = file.align(max(start, file.start))
    if start >= end:
        return
    # Reading begins one character early: a line begins at `start` only if a line break lies before it. Everything up to
    # the first line break belongs to the chunk before.
    is_own = start == file.start
    line_start = position = start if is_own else start - file.encoding.unit
    width = len(file.line_break)
    pending = b""  # the bytes of the line at `line_start` so far
    dropped_bytes = 0  # number of bytes of this line that are not kept in `pending`
    for block in blocks(file.source, position, end, overlap=OVERLAP_BYTES):
        position += len(block)
        pieces = _split(pending + block, file.line_break)
        pending = pieces.pop()
        for piece in pieces:
            line_end = line_start + dropped_bytes + len(piece) + width
            if is_own:
                yield _line(file, line_start, piece, dropped_bytes, line_end)
            elif line_end >= end:
                return
            is_own = True
            line_start = line_end
            dropped_bytes = 0
        if len(pending) + dropped_bytes > MAX_LINE_BYTES:
            # What remains of half a character stays in front of the next block.
            kept = pending[:KEPT_BYTES] + pending[len(pending) - len(pending) % width :]
            dropped_bytes += len(pending) - len(kept)
            pending = kept
            if position >= end:
                break  # wherever this line ends, the next line begins in another chunk
        elif not is_own and position >= end:
            return
    if is_own and (pending or dropped_bytes):
        yield _line(file, line_start, pending, dropped_bytes, line_start + dropped_bytes + len(pending) + width)


def _split(data: bytes, line_break: bytes) -> list[bytes]:
    """Return the pieces of `data` between line breaks. `data` begins with a whole character."""
    if len(line_break) == 1:
        return data.split(line_break)
    pieces, start, found = [], 0, data.find(line_break)
    while found >= 0:
        if found % len(line_break) == 0:
            pieces.append(data[start:found])
            start = found + len(line_break)
        found = data.find(line_break, found + 1)
    return [*pieces, data[start:]]


def _line(file: TextFile, offset: int, data: bytes, dropped_bytes: int, end: int) -> Line:
    is_whole = len(data) + dropped_bytes <= MAX_LINE_BYTES
    text, is_utf8 = file.decode(data if is_whole else data[:KEPT_BYTES])
    text = text.removeprefix("\ufeff")  # files with byte order marks are put together into one
    return Line(offset, text.rstrip("\r"), end, is_utf8, is_whole, file.place)


def head_lines(file: TextFile) -> Iterator[Line]:
    """Yield the lines that begin in the file's head, blank lines too. They are read from the head alone."""
    end = min(file.source.size, HEAD_BYTES - OVERLAP_BYTES)
    for line in lines_from(file, file.start, end=end):
        yield line
        if line.end >= end:
            return
