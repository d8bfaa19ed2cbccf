r"""Records of a CSV or TSV file: rows whose quoted fields may hold line breaks.

A record belongs to the chunk in whose byte range its first line begins. Most records are one line. Where a line opens a
quote that it does not close, the following lines belong to the record if together they are a record of the right
number of columns. If they are not, the quote is a stray one: its line is a malformed row, and the next line begins a
record of its own.

A chunk that begins somewhere in the file must know whether its first line begins a record. It tries the other case:

    1,https://h/1.jpg,"a title      the chunk before
    of two lines"
    ------------------------------- this chunk begins here
    2,https://h/2.jpg,"another"

If the line were the inside of a quoted field, that field would end at the next quote, which a separator or a line break
would have to follow, and the record would end within MAX_RECORD_BYTES and with no more columns than the header has.
Where one of these is not so, the line begins a record, for certain. Where all of them are so, the same is asked of the
lines before it, back to one that certainly begins a record, and the records are followed from there. See
docs/decisions/0009-a-chunk-may-begin-within-a-quoted-field.md.
"""

from __future__ import annotations

from collections import deque
from itertools import count, islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from worker.manifest.places.byte_source import HEAD_BYTES
from worker.manifest.text.dialect import until_escaped_break
from worker.manifest.text.lines import MAX_LINE_BYTES, OVERLAP_BYTES, TOO_LONG, lines_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.manifest.text.dialect import Dialect
    from worker.manifest.text.encoding import TextFile
    from worker.manifest.text.lines import Line

MAX_RECORD_BYTES = HEAD_BYTES - 2 * OVERLAP_BYTES
"""Size in bytes of the longest record of several lines in a file that is divided among chunks. A chunk looks so far
ahead. A record of one line may be longer."""

WHOLE_BYTES = 256 << 10
"""Size in bytes of the largest file whose records may be as long as the file, up to MAX_LINE_BYTES, however it is
divided."""

LOOK_BACK_BYTES = (OVERLAP_BYTES, 64 << 10, 512 << 10, 4 << 20)
"""How far a chunk looks back for the beginning of a record, in bytes, one distance after another."""


class Record(NamedTuple):
    first: Line
    text: str
    """The lines of the record, without the last line break."""
    fields: list[str]
    """The fields; none where `problem` says that the record is malformed."""
    problem: str
    end: int
    """Offset of the byte after the record."""
    line_count: int
    is_utf8: bool
    escape: str | None = None
    """The character that escapes quotes in this record."""


class Ahead:
    """Lines, with a view of those that follow."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._seen: deque[Line] = deque()

    def first(self) -> Line | None:
        """Return the next line, None after the last one."""
        if not self._seen:
            line = next(self._lines, None)
            if line is None:
                return None
            self._seen.append(line)
        return self._seen[0]

    def all(self) -> Iterator[Line]:
        """Yield the next line and all that follow. They remain."""
        for number in count():
            if number == len(self._seen):
                line = next(self._lines, None)
                if line is None:
                    return
                self._seen.append(line)
            yield self._seen[number]

    def drop(self, line_count: int) -> None:
        for _ in range(line_count):
            self._seen.popleft()

    def put_before(self, lines: Iterable[Line]) -> None:
        self._seen.extendleft(reversed(list(lines)))


def read_records(
    file: TextFile, dialect: Dialect, *, first: int, start: int, end: int, max_record_bytes: int | None = None
) -> Iterator[Record]:
    """Yield the records whose first byte lies in [start, end). The file's first record begins at byte `first`.

    Raises ManifestError for a record of several lines and more than `max_record_bytes`, because another chunk may begin
    in it and cannot know that. None: MAX_RECORD_BYTES, or more in a small file.
    """
    start = max(start, first)
    if start >= end:
        return
    size = file.source.size
    if start == first and end >= size:
        max_record_bytes = MAX_LINE_BYTES
    elif max_record_bytes is None:
        max_record_bytes = MAX_RECORD_BYTES if size > WHOLE_BYTES else MAX_LINE_BYTES
    ahead = Ahead(lines_from(file, start, end=end))
    if start > first:
        _find_beginning(ahead, file, dialect, first=first, start=start, max_record_bytes=max_record_bytes)
    while (line := ahead.first()) is not None and line.offset < end:
        if line.is_blank:
            ahead.drop(1)
            following = line.end
        else:
            record = next_record(ahead, dialect)
            ahead.drop(record.line_count)
            following = record.end
            if line.offset >= start:
                if record.line_count > 1 and record.end - line.offset > max_record_bytes:
                    raise _not_divisible(file, f"a quoted field of many lines begins at byte {line.offset}")
                yield record
        if following >= end:
            return


def next_record(ahead: Ahead, dialect: Dialect) -> Record:
    """Return the record that begins with the next line. There must be one."""
    line = next(ahead.all())
    if not line.is_whole or "\0" in line.text:
        return _malformed(line, "a NUL character" if line.is_whole else TOO_LONG)
    fields = dialect.plain_fields(line.text)
    if fields is None:
        return _with_quotes(ahead, dialect) or _alone(line, dialect)
    return _one_line(line, fields)


def _with_quotes(ahead: Ahead, dialect: Dialect) -> Record | None:
    """Return the record that the quotes of the next line and of those after it make, None where they make none."""
    text = next(ahead.all()).text
    is_raw = dialect.is_raw and dialect.raw_fields(text) is not None
    for escape in dialect.escapes(text):
        record = _quoted_record(ahead, dialect, escape)
        if record is None or not dialect.fits(record.fields) or (is_raw and record.line_count == 1):
            continue
        if is_raw and dialect.has_stray_quotes and _are_all_raw(ahead, dialect, record.line_count):
            continue
        return record
    return None


def _alone(line: Line, dialect: Dialect) -> Record:
    """Return the record that the line is without those after it."""
    fields = (dialect.is_raw and dialect.raw_fields(line.text)) or dialect.parse_spaced(line.text)
    try:
        return _one_line(line, fields or dialect.parse_line(line.text))
    except ValueError as error:
        return _malformed(line, str(error))


def _one_line(line: Line, fields: list[str]) -> Record:
    return Record(line, line.text, fields, "", line.end, 1, is_utf8=line.is_utf8)


def _malformed(line: Line, problem: str) -> Record:
    return Record(line, line.text, [], problem, line.end, 1, is_utf8=line.is_utf8)


def _quoted_record(
    ahead: Ahead, dialect: Dialect, escape: str | None, *, opening: str = "", max_bytes: int = MAX_LINE_BYTES
) -> Record | None:
    """Return the record that begins with the next line. It may have several lines, of up to `max_bytes` together.

    Returns None where these lines are no record. `opening` is put before the first line.
    """
    taken: list[Line] = []

    def texts() -> Iterator[str]:
        for line in ahead.all():
            if not line.is_whole or "\0" in line.text or (taken and line.end - taken[0].offset > max_bytes):
                return
            taken.append(line)
            yield f"{line.text}\n" if len(taken) > 1 else f"{opening}{line.text}\n"

    try:
        fields = dialect.parse(until_escaped_break(texts()) if escape else texts(), escape=escape)
    except (ValueError, StopIteration):
        return None
    text = "\n".join(line.text for line in taken)
    is_utf8 = all(line.is_utf8 for line in taken)
    return Record(taken[0], text, fields, "", taken[-1].end, len(taken), is_utf8=is_utf8, escape=escape)


def _are_all_raw(ahead: Ahead, dialect: Dialect, line_count: int) -> bool:
    """Return whether each of the next lines is a record of its own where quotes are characters."""
    return all(dialect.raw_fields(line.text) for _, line in zip(range(line_count), ahead.all(), strict=False))


def _find_beginning(
    ahead: Ahead, file: TextFile, dialect: Dialect, *, first: int, start: int, max_record_bytes: int
) -> None:
    """Put before the lines those that precede them, from one that certainly begins a record."""
    own = ahead.first()
    if own is None or not _lines_inside(ahead, dialect, max_record_bytes):
        return
    for distance in LOOK_BACK_BYTES:
        begin = max(first, start - distance)
        lines = lines_from(file, begin, end=start)
        ahead.put_before(takewhile(lambda line: line.offset < own.offset, lines))
        while (line := next(ahead.all())).offset < own.offset:
            if line.offset == first or not (inside := _lines_inside(ahead, dialect, max_record_bytes)):
                return
            # The lines of one field are all of them within it.
            for _ in takewhile(lambda line: line.offset < own.offset, islice(ahead.all(), inside)):
                ahead.drop(1)
    raise _not_divisible(file, f"its quotes do not show where a row begins near byte {start}")


def _lines_inside(ahead: Ahead, dialect: Dialect, max_record_bytes: int) -> int:
    """Return the number of lines up to the record's end if the next line lies within a quoted field; 0 if it cannot."""
    for escape in (None, "\\"):
        rest = _quoted_record(ahead, dialect, escape, opening='"', max_bytes=max_record_bytes)
        if rest is not None and dialect.ends_record(rest.fields):
            return rest.line_count
    return 0


def _not_divisible(file: TextFile, problem: str) -> ManifestError:
    name = file.source.name
    return ManifestError(
        f"{name} cannot be divided among chunks: {problem}; write the list once as Parquet with "
        f'`embedder list "{name}" list.parquet`, or use one chunk'
    )
