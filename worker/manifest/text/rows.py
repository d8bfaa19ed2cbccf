"""Rows of TXT: each line is a URL."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from common.format.reasons import Reason
from worker.manifest.raw_rows import FIRST_VALUES, Fields, RawRow, UnreadableRow
from worker.manifest.text.files import LineRows
from worker.manifest.text.lines import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.text.lines import Line


class TextRows(LineRows):
    """TXT: each line is a URL, or an id of Open Images."""

    columns = None
    has_ids = False

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        super().__init__(sources)
        self._lines.check_has_rows()
        self.first_texts = [line.text for line in islice(self._lines.head(), FIRST_VALUES)]

    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        text, is_utf8 = line.text, line.is_utf8
        if not line.is_whole:
            return UnreadableRow(line.where, TOO_LONG, text, Reason.URL_TOO_LONG)
        return RawRow(line.where, Fields(text), text, is_utf8)
