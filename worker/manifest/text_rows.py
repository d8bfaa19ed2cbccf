"""Rows of the line-based formats: CSV, TSV, JSONL and TXT.

A line is a row, so that a chunk is found by bytes alone. A quoted field therefore cannot hold a line break: such rows
are malformed, and always the same ones however many chunks there are.
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
from worker.manifest.excerpts import shown
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow, chunk_range
from worker.manifest.text_lines import MAX_LINE_BYTES, Line, head_lines, read_lines, text_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.byte_source import ByteSource
    from worker.settings import ManifestSettings

TOO_LONG = f"the line has more than {MAX_LINE_BYTES} bytes"
NOT_UTF8 = "the line is not UTF-8"

# A field may be as long as a line, and lines are limited.
csv.field_size_limit(MAX_LINE_BYTES)


class DelimitedRows:
    """CSV and TSV: a header line, and rows of as many fields."""

    def __init__(self, source: ByteSource, settings: ManifestSettings, *, delimiter: str) -> None:
        self._source = source
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
                f"{shown(header.data.decode(errors='replace'))}"
            ) from error
        self._first = header.end
        self._width = len(names)
        self.columns = find_columns(names, settings, name=source.name)
        self.has_ids = self.columns.id is not None
        self._places = [None if name is None else names.index(name) for name in astuple(self.columns)]
        _check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        share = chunk_range(self._source.size, index=index, count=count)
        for line in read_lines(self._source, first=self._first, start=share.start, end=share.stop):
            yield self._parse(line)

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, problem = _decode(line)
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text)
        try:
            fields = self._fields(text)
        except (csv.Error, ValueError) as error:
            return UnreadableRow(line.where, str(error), text)
        if len(fields) != self._width:
            return UnreadableRow(line.where, f"expected {self._width} columns, found {len(fields)}", text)
        values = [None if place is None else fields[place] for place in self._places]
        return RawRow(line.where, Fields(*values), text, problem)

    def _fields(self, text: str) -> list[str]:
        if "\0" in text:
            raise ValueError("a NUL character")
        return next(csv.reader([text], delimiter=self._delimiter, strict=True))


class JsonLinesRows:
    """JSONL: in every line an object with a URL, or a string that is the URL."""

    def __init__(self, source: ByteSource, settings: ManifestSettings) -> None:
        self._source = source
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
        share = chunk_range(self._source.size, index=index, count=count)
        for line in read_lines(self._source, first=self._first, start=share.start, end=share.stop):
            yield self._parse(line)

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, problem = _decode(line)
        if problem or not line.is_whole:
            return UnreadableRow(line.where, problem if line.is_whole else TOO_LONG, text)
        value = _json(text)
        if isinstance(value, str):
            return RawRow(line.where, Fields(value), text)
        if not isinstance(value, dict):
            return UnreadableRow(line.where, "expected a JSON object or string", text)
        folded = {key.lower(): each for key, each in value.items()}
        found = [next((folded[name] for name in names if name in folded), None) for names in self._names]
        return RawRow(line.where, Fields(*found), text)


class TextRows:
    """TXT: a URL in every line."""

    columns = None
    has_ids = False

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._first = text_start(source)
        _check_has_rows(source, self._first)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        share = chunk_range(self._source.size, index=index, count=count)
        for line in read_lines(self._source, first=self._first, start=share.start, end=share.stop):
            text, problem = _decode(line)
            if line.is_whole:
                yield RawRow(line.where, Fields(text), text, problem)
            else:
                yield UnreadableRow(line.where, TOO_LONG, text, Reason.URL_TOO_LONG)


def _decode(line: Line) -> tuple[str, str]:
    """Return the line as text, and what is wrong with that: stray bytes become lone surrogates."""
    try:
        return line.data.decode(), ""
    except UnicodeDecodeError:
        return line.data.decode(errors="surrogateescape"), NOT_UTF8


def _json(text: str) -> object:
    """Return the value, None where the text is no JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _check_has_rows(source: ByteSource, first: int) -> None:
    # A text larger than its head is not searched for a line: it would be read to its end to tell that it has none.
    if source.size > max(first, HEAD_BYTES):
        return
    if next(read_lines(source, first=first, start=first, end=source.size), None) is None:
        raise ManifestError(f"{source.name} has no rows")
