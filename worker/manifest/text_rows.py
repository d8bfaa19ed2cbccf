"""Rows of the formats in which a line is a row: CSV, TSV, JSONL and TXT.

A chunk is found by bytes alone, without reading the chunks before it. So a quoted field cannot hold a line break: the
lines of such a field are malformed rows, and they are the same rows whatever the number of chunks.
"""

from __future__ import annotations

import csv
import json
from dataclasses import astuple
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.format.reasons import Reason
from worker.manifest.byte_source import HEAD_BYTES
from worker.manifest.columns import Columns, field_names, find_columns
from worker.manifest.excerpts import excerpt
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow, chunk_range
from worker.manifest.text_lines import (
    MAX_LINE_BYTES,
    Line,
    count_lines,
    head_lines,
    read_lines,
    spread_lines,
    text_start,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount
    from worker.settings import ManifestSettings

TOO_LONG = f"the line has more than {MAX_LINE_BYTES} bytes"

# A field may be as long as a line.
csv.field_size_limit(MAX_LINE_BYTES)


class DelimitedRows:
    """CSV and TSV: a header line, and rows with the same number of fields."""

    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings, *, delimiter: str) -> None:
        source = self._source = sources[0]
        self._delimiter = delimiter
        header = next(head_lines(source), None)
        if header is None:
            raise ManifestError(f"{source.name} has no rows")
        if not header.is_whole:
            raise ManifestError(
                f"{source.name} has no line break in its first {MAX_LINE_BYTES} bytes, expected a header"
            )
        try:
            names = [name.strip() for name in self._fields(header.data.decode())]
        except (csv.Error, ValueError) as error:
            raise ManifestError(
                f"{source.name} has no header that can be read as UTF-8 text ({error}): "
                f"{excerpt(header.data.decode(errors='replace'))}"
            ) from error
        self._first = header.end
        self._width = len(names)
        self.columns = find_columns(names, settings, name=source.name)
        self.has_ids = self.columns.id is not None
        self._places = [None if name is None else names.index(name) for name in astuple(self.columns)]
        _check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, _chunk_lines(self._source, self._first, index=index, count=count))

    def count_rows(self) -> RowCount:
        return count_lines(self._source, first=self._first)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, spread_lines(self._source, first=self._first, count=count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = _decode(line)
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text)
        try:
            fields = self._fields(text)
        except (csv.Error, ValueError) as error:
            return UnreadableRow(line.where, str(error), text)
        if len(fields) != self._width:
            return UnreadableRow(line.where, f"expected {self._width} columns, found {len(fields)}", text)
        values = [None if place is None else fields[place] for place in self._places]
        return RawRow(line.where, Fields(*values), text, is_utf8)

    def _fields(self, text: str) -> list[str]:
        if "\0" in text:
            raise ValueError("a NUL character")
        return next(csv.reader([text], delimiter=self._delimiter, strict=True))


class JsonLinesRows:
    """JSONL: each line is an object with a URL, or a string that is the URL."""

    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings) -> None:
        source = self._source = sources[0]
        self._first = text_start(source)
        self._names = [[name.lower() for name in names] for names in field_names(settings)]
        self.columns: Columns | None = None
        values = [_json(line.data.decode(errors="replace")) for line in head_lines(source) if line.is_whole]
        keys = dict.fromkeys(key for value in values if isinstance(value, dict) for key in value)
        if keys and not any(isinstance(value, str) for value in values):
            self.columns = find_columns(keys, settings, name=source.name)
        self.has_ids = self.columns is not None and self.columns.id is not None
        _check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, _chunk_lines(self._source, self._first, index=index, count=count))

    def count_rows(self) -> RowCount:
        return count_lines(self._source, first=self._first)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, spread_lines(self._source, first=self._first, count=count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = _decode(line)
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text)
        if not is_utf8:
            return UnreadableRow(line.where, "the line is not UTF-8", text)
        value = _json(text)
        if isinstance(value, str):
            return RawRow(line.where, Fields(value), text)
        if not isinstance(value, dict):
            return UnreadableRow(line.where, "expected a JSON object or string", text)
        folded = {key.lower(): each for key, each in value.items()}
        found = [next((folded[name] for name in names if name in folded), None) for names in self._names]
        return RawRow(line.where, Fields(*found), text)


class TextRows:
    """TXT: each line is a URL."""

    columns = None
    has_ids = False

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        source = self._source = sources[0]
        self._first = text_start(source)
        _check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, _chunk_lines(self._source, self._first, index=index, count=count))

    def count_rows(self) -> RowCount:
        return count_lines(self._source, first=self._first)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, spread_lines(self._source, first=self._first, count=count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = _decode(line)
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text, Reason.URL_TOO_LONG)
        return RawRow(line.where, Fields(text), text, is_utf8)


def _chunk_lines(source: ByteSource, first: int, *, index: int, count: int) -> Iterator[Line]:
    """Return the lines of a chunk. The rows begin at byte `first`; the chunks divide all bytes of the source."""
    share = chunk_range(source.size, index=index, count=count)
    return read_lines(source, first=first, start=share.start, end=share.stop)


def _decode(line: Line) -> tuple[str, bool]:
    """Return the line as text, and whether it is UTF-8. Lone surrogates stand for the bytes that are not."""
    try:
        return line.data.decode(), True
    except UnicodeDecodeError:
        return line.data.decode(errors="surrogateescape"), False


def _json(text: str) -> object:
    """Return the JSON value, None when the text is not JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _check_has_rows(source: ByteSource, first: int) -> None:
    # A text that is larger than its head counts as having rows, because the search for a row could read all of it.
    if source.size > max(first, HEAD_BYTES):
        return
    if next(read_lines(source, first=first, start=first, end=source.size), None) is None:
        raise ManifestError(f"{source.name} has no rows")
