"""Rows of JSONL: each line is a JSON value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from worker.manifest.columns import Columns, field_names, find_columns
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow
from worker.manifest.text_files import TextLines
from worker.manifest.text_lines import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount
    from worker.manifest.text_lines import Line
    from worker.settings import ManifestSettings


class JsonLinesRows:
    """JSONL: each line is an object with a URL, or a string that is the URL."""

    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings) -> None:
        self._lines = TextLines(sources)
        self._names = [[name.lower() for name in names] for names in field_names(settings)]
        self.columns: Columns | None = None
        values = [_json(line.text) for line in self._lines.head() if line.is_whole]
        keys = dict.fromkeys(key for value in values if isinstance(value, dict) for key in value)
        if keys and not any(isinstance(value, str) for value in values):
            self.columns = find_columns(keys, settings, name=sources[0].name)
        self.has_ids = self.columns is not None and self.columns.id is not None
        self._lines.check_has_rows()

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.read(index, count))

    def count_rows(self) -> RowCount:
        return self._lines.count()

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.spread(count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = line.text, line.is_utf8
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


def _json(text: str) -> object:
    """Return the JSON value, None when the text is not JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
