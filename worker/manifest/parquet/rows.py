"""Rows of Parquet files, which are one list in their order.

A chunk reads only the columns that are used, in the row groups that overlap the chunk. Images that lie in the files
are read apart from the rows, while they are embedded.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import astuple
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from common.errors import ManifestError
from common.format.reasons import Reason
from worker.manifest.parquet.columns import check_like, find_parquet_columns
from worker.manifest.parquet.parquet_file import OpenParquet, column_of, read_footers
from worker.manifest.parquet.values import values_of
from worker.manifest.raw_rows import Fields, RawRow, RowCount, UnreadableRow, chunk_range, spread_range
from worker.manifest.read_ahead import ReadAhead, pieces
from worker.manifest.row_name import file_name
from worker.rows import ImageFailed, length_fault

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from worker.manifest.parquet.parquet_file import Footer
    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.read_ahead import Piece
    from worker.rows import ImageContent
    from worker.settings import ManifestSettings

BATCH_ROWS = 8192
"""Number of rows that are decoded at a time."""

IMAGE_BATCH_ROWS = 256
"""Largest number of images that are decoded at a time."""

IMAGE_BATCH_BYTES = 4 << 20
"""Number of bytes of the images that are decoded at a time, if they are of equal size."""

SPREAD_GROUPS = 5
"""Largest number of row groups from which `spread` takes rows: of each, a piece of every column is read."""

FIRST_VALUES = 16
"""Number of values of a column that tell what it holds."""


class _Group(NamedTuple):
    """The rows of a row group that are wanted."""

    footer: Footer
    number: int
    first: int
    """The number of the row group's first row among all rows."""
    first_of_file: int
    """The number of the file's first row among all rows."""
    rows: Sequence[int]
    """The numbers of the rows within the row group, ascending."""


class ParquetRows:
    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings) -> None:
        self._footers = read_footers(sources)
        self._starts = [0, *accumulate(footer.rows for footer in self._footers)]
        """The number of each file's first row among all rows, and the number of all rows."""
        filled = [footer for footer in self._footers if footer.rows]
        if not filled:
            others = f" and {len(sources) - 1} more files" if len(sources) > 1 else ""
            raise ManifestError(f"{sources[0].name}{others} ha{'ve' if others else 's'} no rows")
        # A file without rows has no types in it that mean anything, for example where pandas wrote it.
        first = filled[0]
        self.columns = find_parquet_columns(first, settings, first_values=lambda column: _first_values(first, column))
        for footer in filled:
            if footer is not first:
                check_like(footer, first, self.columns)
        self.has_ids = self.columns.id is not None

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        for group in self._groups(chunk_range(self._starts[-1], index=index, count=count)):
            yield from self._rows(group)

    def count_rows(self) -> RowCount:
        return RowCount(self._starts[-1], is_exact=True)

    def spread(self, count: int) -> Iterator[RawRow]:
        """Yield rows from the start of some row groups: a later row costs reading those before it."""
        groups = [
            _Group(footer, number, first, start, range(rows))
            for footer, start in zip(self._footers, self._starts, strict=False)
            for number, (rows, first) in enumerate(
                zip(footer.group_rows, accumulate(footer.group_rows, initial=start), strict=False)
            )
            if rows
        ]
        chosen = [groups[place] for place in spread_range(len(groups), min(count, SPREAD_GROUPS))]
        for place, group in enumerate(chosen):
            share = len(chunk_range(count, index=place, count=len(chosen)))
            within = min(len(group.rows), BATCH_ROWS if self.columns.image is None else share)
            rows = list(self._rows(group._replace(rows=range(within))))
            yield from (rows[row] for row in spread_range(len(rows), share))

    def images(self, cells: Sequence[int], *, max_bytes: int) -> Generator[ImageContent | ImageFailed]:
        """Yield the image of each of `cells`; see ImageReader."""
        column = self.columns.image
        if column is None:
            raise TypeError("the files hold no images")
        groups = list(self._groups(cells))
        with ReadAhead(_pieces(groups, column)) as ahead:
            for group in groups:
                yield from _images(group, column, ahead=ahead, max_bytes=max_bytes)

    def bytes_to(self, cell: int) -> int:
        """Return about how many bytes, without compression, are read to reach the end of an image."""
        column = self.columns.image
        if column is None:
            raise TypeError("the files hold no images")
        group = next(self._groups([cell]))
        span = OpenParquet(group.footer).span(group.number, column)
        return span.raw_bytes * (group.rows[0] + 1) // group.footer.group_rows[group.number]

    def _groups(self, rows: Sequence[int]) -> Iterator[_Group]:
        """Yield the row groups that hold `rows`, which ascend."""
        place = 0
        while place < len(rows):
            file = bisect_right(self._starts, rows[place]) - 1
            footer = self._footers[file]
            bounds = list(accumulate(footer.group_rows, initial=self._starts[file]))
            while place < len(rows) and rows[place] < bounds[-1]:
                number = bisect_right(bounds, rows[place]) - 1
                first, after = bounds[number], bisect_right(rows, bounds[number + 1] - 1, lo=place)
                yield _Group(footer, number, first, bounds[0], _less(rows, place, after, first))
                place = after

    def _rows(self, group: _Group) -> Iterator[RawRow]:
        """Yield consecutive rows of a row group."""
        names = [None if name == self.columns.image else name for name in astuple(self.columns)]
        wanted = [name for name in names if name is not None]
        footer, stop = group.footer, group.rows[-1] + 1
        number = group.first + group.rows[0]
        in_file = number - group.first_of_file
        place = f" of {footer.source.name}" if len(self._footers) > 1 else ""
        holds_image = self.columns.image is not None
        for fields in self._fields(group, names, wanted, stop=stop):
            yield RawRow(
                f"row {in_file}{place} (the first is 0)",
                fields,
                cell=number if holds_image else None,
                name=f"{file_name(footer.source)}#{in_file}" if holds_image else "",
            )
            number += 1
            in_file += 1

    @staticmethod
    def _fields(group: _Group, names: Sequence[str | None], wanted: Sequence[str], *, stop: int) -> Iterator[Fields]:
        start = group.rows[0]
        if not wanted:
            yield from (Fields(None) for _ in group.rows)
            return
        file = OpenParquet(group.footer)
        for first, batch in file.batches(group.number, wanted, batch_rows=BATCH_ROWS, stop=stop):
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            if low < high:
                part = batch.slice(low, high - low)
                yield from map(
                    Fields,
                    *([None] * (high - low) if name is None else values_of(column_of(part, name)) for name in names),
                )


def _less(rows: Sequence[int], start: int, stop: int, by: int) -> Sequence[int]:
    if isinstance(rows, range):
        return range(rows[start] - by, rows[stop - 1] - by + 1)
    return [row - by for row in islice(rows, start, stop)]


def _pieces(groups: Iterable[_Group], column: str) -> Iterator[Piece]:
    for group in groups:
        span = OpenParquet(group.footer).span(group.number, column)
        yield from pieces(group.footer.source, span.start, span.end)


def _images(group: _Group, column: str, *, ahead: ReadAhead, max_bytes: int) -> Iterator[ImageContent | ImageFailed]:
    file = OpenParquet(group.footer, ahead=ahead)
    span = file.span(group.number, column)
    mean_bytes = max(1, span.raw_bytes // max(1, group.footer.group_rows[group.number]))
    batch_rows = max(1, min(IMAGE_BATCH_ROWS, IMAGE_BATCH_BYTES // mean_bytes))
    place = 0
    for first, batch in file.batches(group.number, [column], batch_rows=batch_rows, stop=group.rows[-1] + 1, span=span):
        cells = column_of(batch, column)
        while place < len(group.rows) and group.rows[place] < first + batch.num_rows:
            content = _content(cells[group.rows[place] - first])
            place += 1
            if not content:
                yield ImageFailed(Reason.NO_SOURCE, "the row has no bytes")
            else:
                yield length_fault(len(content), max_bytes=max_bytes) or content


def _content(cell: pa.Scalar) -> memoryview | bytes | None:
    """Return the bytes of a cell, without a copy where that is possible."""
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value
    if not cell.is_valid:
        return None
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar):
        return bytes(cell.values.fill_null(0).to_numpy())
    return memoryview(cell.as_buffer())


def _first_values(footer: Footer, column: str) -> list[bytes]:
    """Return some of the first values of a column of bytes."""
    group = next((number for number, rows in enumerate(footer.group_rows) if rows), None)
    if group is None:
        return []
    file = OpenParquet(footer)
    batches = file.batches(group, [column], batch_rows=FIRST_VALUES, stop=1)
    return [
        bytes(content)
        for _, batch in batches
        for cell in column_of(batch, column)
        if (content := _content(cell)) is not None
    ]
