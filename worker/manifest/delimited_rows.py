"""Rows of CSV and TSV.

A chunk is found by bytes alone, without reading the chunks before it. So a quoted field cannot hold a line break: the
lines of such a field are malformed rows, and they are the same rows whatever the number of chunks.
"""

from __future__ import annotations

import csv
from dataclasses import astuple
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.columns import find_columns
from worker.manifest.excerpts import excerpt
from worker.manifest.header import header_or_fault
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow, chunk_range
from worker.manifest.text_lines import (
    MAX_LINE_BYTES,
    TOO_LONG,
    Line,
    check_has_rows,
    count_lines,
    head_lines,
    read_lines,
    spread_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount
    from worker.settings import ManifestSettings

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
            fields = self._fields(header.data.decode())
        except (csv.Error, ValueError) as error:
            raise ManifestError(
                f"{source.name} has no header that can be read as UTF-8 text ({error}): "
                f"{excerpt(header.data.decode(errors='replace'))}"
            ) from error
        names, is_row = header_or_fault(fields, settings, name=source.name)
        self._first = header.offset if is_row else header.end
        self._width = len(names)
        self.columns = find_columns(names, settings, name=source.name)
        self.has_ids = self.columns.id is not None
        self._places = [None if name is None else names.index(name) for name in astuple(self.columns)]
        check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines(index, count))

    def _lines(self, index: int, count: int) -> Iterator[Line]:
        share = chunk_range(self._source.size, index=index, count=count)
        return read_lines(self._source, first=self._first, start=share.start, end=share.stop)

    def count_rows(self) -> RowCount:
        return count_lines(self._source, first=self._first)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, spread_lines(self._source, first=self._first, count=count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = line.text, line.is_utf8
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
