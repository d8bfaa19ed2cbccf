"""Rows of JSONL: each line is a JSON value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.manifest.columns import Columns, find_columns
from worker.manifest.json.values import ObjectFields, first_objects, first_texts, keys_of, parse_json
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.manifest.text.files import LineRows
from worker.manifest.text.lines import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.text.lines import Line
    from worker.settings import ManifestSettings


class JsonLinesRows(LineRows):
    """JSONL: each line is an object with a URL, or a string that is the URL."""

    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings) -> None:
        super().__init__(sources)
        self.columns: Columns | None = None
        values = [_json(line.text) for line in self._lines.head() if line.is_whole]
        self.first_texts = first_texts(values)
        if (keys := keys_of(values)) and not self.first_texts:
            self.columns = find_columns(keys, settings, name=sources[0].name, examples=first_objects(values))
        self._fields = ObjectFields(settings, self.columns)
        self.has_ids = self.columns is not None and self.columns.id is not None
        self._lines.check_has_rows()

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, line.text)
        return self._fields.row(_json(line.text), line.where, line.text, is_utf8=line.is_utf8)


def _json(text: str) -> object:
    """Return the JSON value, None when the text is not JSON. A comma behind it, as in an array, does not count."""
    for candidate in (text, text.rstrip().removesuffix(",")):
        try:
            return parse_json(candidate)
        except ValueError:
            continue
    return None
