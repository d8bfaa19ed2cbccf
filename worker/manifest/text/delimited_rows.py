"""Rows of CSV and TSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.column_names import folded
from worker.manifest.excerpts import excerpt
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow
from worker.manifest.text.delimited_file import open_delimited
from worker.manifest.text.files import TextFiles
from worker.manifest.text.records import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.columns import Columns
    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount
    from worker.manifest.text.delimited_file import DelimitedFile
    from worker.manifest.text.files import Part
    from worker.manifest.text.records import Record
    from worker.settings import ManifestSettings


class DelimitedRows:
    """CSV and TSV: files with a header line each, and rows with the same number of fields.

    The files may have different separators, encodings and orders of columns, and other columns beside those that are
    used. A file may have no rows.
    """

    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings, *, delimiter: str) -> None:
        """Raises ManifestError when there is no row, or when the header of the first file cannot be used."""
        self._files = TextFiles(sources)
        self._settings = settings
        self._delimiter = delimiter
        self._first: DelimitedFile | None = None
        self._opened: DelimitedFile | None = None
        # The first file with a header decides which columns are used.
        self._first = next((file for source in sources if source.size and (file := self._open(source))), None)
        if self._first is None:
            raise ManifestError(f"{self._files.name} has no rows")
        self.columns = self._first.columns
        self.has_ids = self.columns.id is not None
        self._files.check_has_rows(self._rows)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return self._files.read(index, count, self._rows)

    def count_rows(self) -> RowCount:
        return self._files.count(self._rows, rows_per_line=self._first.rows_per_line if self._first else 1.0)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return self._files.spread(count, self._rows)

    def _rows(self, part: Part) -> Iterator[RawRow | UnreadableRow]:
        file = self._open(part.source)
        if file is not None:
            for record in read_records(file.text, file.dialect, first=file.first, start=part.start, end=part.end):
                yield _row(record, file.places)

    def _open(self, source: ByteSource) -> DelimitedFile | None:
        """Return the file, None when it is blank. Raises ManifestError when its columns are not those of the first."""
        for known in (self._opened, self._first):
            if known is not None and known.text.source is source:
                return known
        text = self._files.open(source)
        try:
            like = self._first.columns if self._first else None
            file = open_delimited(text, self._settings, preferred=self._delimiter, like=like)
        except ManifestError as error:
            if self._first is None:
                raise
            raise ManifestError(
                f"{error}; {self._first.text.source.name} has {_listed(self._first.columns)}, and all files of a "
                "manifest need the same columns"
            ) from error
        if file is not None and self._first is not None:
            _check_same(file, self._first)
        self._opened = file
        return file


def _check_same(file: DelimitedFile, first: DelimitedFile) -> None:
    """Raise ManifestError when the file and the first one do not have the same columns among those that are used."""
    here, there = ({folded(name) for name in each.columns.present} for each in (file, first))
    if here != there:
        raise ManifestError(
            f"{file.text.source.name} has {_listed(file.columns)}, and {first.text.source.name} has "
            f"{_listed(first.columns)}; all files of a manifest need the same columns"
        )


def _listed(columns: Columns) -> str:
    names = columns.present
    return f"the column{'s' * (len(names) > 1)} {', '.join(excerpt(name) for name in names)}"


def _row(record: Record, places: list[int | None]) -> RawRow | UnreadableRow:
    if record.problem:
        return UnreadableRow(record.first.where, record.problem, record.text)
    fields = record.fields
    values = [None if place is None else fields[place] for place in places]
    return RawRow(record.first.where, Fields(*values), record.text, record.is_utf8)
