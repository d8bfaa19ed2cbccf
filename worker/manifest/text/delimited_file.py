"""One CSV or TSV file: its dialect and its columns, by its first lines."""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from worker.manifest.column_names import find_name
from worker.manifest.columns import Columns, find_columns
from worker.manifest.excerpts import excerpt
from worker.manifest.text.dialect import SEPARATORS, Dialect
from worker.manifest.text.header import header_or_fault
from worker.manifest.text.lines import MAX_LINE_BYTES, head_lines
from worker.manifest.text.records import Ahead, next_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.text.encoding import TextFile
    from worker.manifest.text.lines import Line
    from worker.manifest.text.records import Record
    from worker.settings import ManifestSettings

COMPARED_ROWS = 50
"""Number of rows by which separators are compared."""

_UNKNOWN_LIKENESS = 0.5
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


class DelimitedFile(NamedTuple):
    text: TextFile
    dialect: Dialect
    columns: Columns
    places: list[int | None]
    """The place of each field of Columns among the columns; None for a field that the file does not have."""
    first: int
    """Offset of the first row's first byte."""
    rows_per_line: float
    """Number of rows for each line, in the file's head."""


class _Header(NamedTuple):
    dialect: Dialect
    names: list[str]
    columns: Columns
    first: int


def open_delimited(
    text: TextFile, settings: ManifestSettings, *, preferred: str, like: Columns | None = None
) -> DelimitedFile | None:
    """Return the file, None when it has no line. `preferred` is the separator that the file's name stands for.

    `like` are the columns of the manifest's first file; the column with its URLs is taken here too.

    Raises ManifestError when the header cannot be read, or does not name the columns that are needed.
    """
    lines = [line for line in head_lines(text) if not line.is_blank]
    if not lines:
        return None
    name = text.source.name
    if not lines[0].is_whole:
        raise ManifestError(f"{name} has no line break in its first {MAX_LINE_BYTES} bytes, expected a header")
    separators = [preferred, *(each for each in SEPARATORS if each != preferred)]
    if match := _SEPARATOR_LINE.fullmatch(lines[0].text):
        separators = [match[1]]
        del lines[0]
    if not lines:
        return None
    header = _best_header(lines, separators, settings, name=name, like=like)
    rows = [line for line in lines if line.offset >= header.first]
    dialect = _with_habits(header.dialect, rows)
    return DelimitedFile(
        text,
        dialect,
        header.columns,
        [None if each is None else header.names.index(each) for each in astuple(header.columns)],
        header.first,
        sum(1 for _ in _records(rows, dialect)) / len(rows) if rows else 1.0,
    )


def _best_header(
    lines: list[Line], separators: list[str], settings: ManifestSettings, *, name: str, like: Columns | None
) -> _Header:
    """Return the header by the separator that gives a known column and rows of the same width.

    Raises the likeliest separator's ManifestError when no separator gives a known column.
    """
    found: list[tuple[tuple[bool, float], _Header]] = []
    errors: list[tuple[tuple[float, int], ManifestError]] = []
    for separator in separators:
        record = next_record(Ahead(lines), Dialect(separator=separator))
        dialect = Dialect(separator=separator, width=len(record.fields))
        after = [line for line in lines if line.offset >= record.end]
        rows = list(islice(_records(after, dialect), COMPARED_ROWS))
        likeness = sum(not row.problem for row in rows) / len(rows) if rows else _UNKNOWN_LIKENESS
        # A file of one column looks like that whatever the separator.
        has_columns = len(record.fields) > 1 and likeness >= _UNKNOWN_LIKENESS
        try:
            found.append(((has_columns, likeness), _header(record, rows, dialect, settings, name=name, like=like)))
        except ManifestError as error:
            errors.append(((likeness * has_columns, len(record.fields)), error))
    if found:
        return max(found, key=lambda each: each[0])[1]
    raise max(errors, key=lambda each: each[0])[1]


def _header(
    record: Record,
    rows: list[Record],
    dialect: Dialect,
    settings: ManifestSettings,
    *,
    name: str,
    like: Columns | None,
) -> _Header:
    problem = record.problem or ("" if record.is_utf8 else "it is not UTF-8")
    if problem:
        raise ManifestError(f"{name} has no header that can be read as UTF-8 text ({problem}): {excerpt(record.text)}")
    fields = [each.strip().strip('"').strip() for each in record.fields]
    names, is_row = header_or_fault(fields, settings, name=name)
    first = record.first.offset if is_row else record.end
    # A row may have empty fields behind the last column.
    examples = [dict(zip(names, row.fields, strict=False)) for row in rows if not row.problem]
    columns = find_columns(names, settings, name=name, examples=examples)
    if like is not None and (url := find_name(names, [like.url])) is not None:
        columns = replace(columns, url=url)
    return _Header(dialect, names, columns, first)


def _with_habits(dialect: Dialect, rows: list[Line]) -> Dialect:
    """Return the dialect with the ways of quoting that the rows show."""
    has_escapes = has_stray_quotes = False
    for record in _records(rows, dialect):
        if '"' in record.text and not record.problem:
            has_escapes |= record.escape is not None
            has_stray_quotes |= dialect.has_stray_quote(record.text)
    return replace(dialect, has_escapes=has_escapes, has_stray_quotes=has_stray_quotes)


def _records(lines: list[Line], dialect: Dialect) -> Iterator[Record]:
    ahead = Ahead(lines)
    while ahead.first() is not None:
        record = next_record(ahead, dialect)
        ahead.drop(record.line_count)
        yield record
