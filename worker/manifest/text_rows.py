"""Rows of TXT: each line is a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.format.reasons import Reason
from worker.manifest.image_ids import are_image_ids
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow
from worker.manifest.text_files import TextLines
from worker.manifest.text_lines import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount
    from worker.manifest.text_lines import Line


class TextRows:
    """TXT: each line is a URL, or a subset and an id of Open Images."""

    columns = None

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._lines = TextLines(sources)
        self._lines.check_has_rows()
        self.are_image_ids = are_image_ids(line.text for line in self._lines.head())
        self.has_ids = self.are_image_ids

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.read(index, count))

    def count_rows(self) -> RowCount:
        return self._lines.count()

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.spread(count))

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = line.text, line.is_utf8
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text, Reason.URL_TOO_LONG)
        return RawRow(line.where, Fields(text), text, is_utf8)
