"""Rows of a Parquet file. A chunk reads only the columns that are used, in the row groups that overlap the chunk."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from common.errors import ManifestError
from worker.manifest.columns import find_columns
from worker.manifest.parquet_values import values_of
from worker.manifest.raw_rows import Fields, RawRow, RowCount, UnreadableRow, chunk_range, spread_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.settings import ManifestSettings

BATCH_ROWS = 8192
"""Number of rows that are decoded at a time."""

SPREAD_GROUPS = 5
"""Largest number of row groups from which `spread` takes rows: of each, a piece of every column is read."""

PIECE_BYTES = 4 << 20
"""Number of bytes of one column in one request, so that memory does not grow with the size of a row group."""

# pyarrow's own pool does not return memory: on large row groups it would hold 35 MB while the chunk is computed.
pa.set_memory_pool(pa.system_memory_pool())


class ParquetRows:
    def __init__(self, sources: Sequence[ByteSource], settings: ManifestSettings) -> None:
        source = self._source = sources[0]
        with _parquet_errors(source):
            file = self._open()
            self._metadata = file.metadata
            schema = file.schema_arrow
        self.columns = find_columns(schema.names, settings, name=source.name)
        self.has_ids = self.columns.id is not None
        for name in self.columns.present:
            if schema.names.count(name) > 1:
                raise ManifestError(f"{source.name} has {schema.names.count(name)} columns {name}; rename all but one")
        url_type = schema.field(self.columns.url).type
        if not _is_text(url_type):
            raise ManifestError(
                f"{source.name}: the column {self.columns.url} is {url_type}, expected text; name the column with "
                "the URLs in EMBEDDER_URL_COLUMN"
            )
        if not self._metadata.num_rows:
            raise ManifestError(f"{source.name} has no rows")

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        share = chunk_range(self._metadata.num_rows, index=index, count=count)
        first = 0
        for group in range(self._metadata.num_row_groups):
            rows = self._metadata.row_group(group).num_rows
            start, stop = max(share.start, first), min(share.stop, first + rows)
            if start < stop:
                for row, values in enumerate(self._read_group(group, start - first, stop - first), start):
                    yield RawRow(f"row {row} (the first is 0)", values)
            first += rows

    def count_rows(self) -> RowCount:
        return RowCount(self._metadata.num_rows, is_exact=True)

    def spread(self, count: int) -> Iterator[RawRow]:
        """Yield rows from the first batch of some row groups: a later row costs reading those before it."""
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        groups = [number for number, size in enumerate(sizes) if size]
        chosen = [groups[place] for place in spread_range(len(groups), min(count, SPREAD_GROUPS))]
        for place, group in enumerate(chosen):
            share = len(chunk_range(count, index=place, count=len(chosen)))
            rows = list(self._read_group(group, 0, min(sizes[group], BATCH_ROWS)))
            for row in spread_range(len(rows), share):
                yield RawRow(f"row {sum(sizes[:group]) + row} (the first is 0)", rows[row])

    def _read_group(self, group: int, start: int, stop: int) -> Iterator[Fields]:
        """Yield the fields of rows [start, stop) of a row group."""
        names = self.columns.present
        with _parquet_errors(self._source):
            file = self._open(metadata=self._metadata)
            first = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
                low, high = max(start - first, 0), min(stop - first, batch.num_rows)
                if low < high:
                    columns = dict(zip(batch.schema.names, batch.slice(low, high - low).columns, strict=True))
                    values = [
                        [None] * (high - low) if name is None else values_of(columns[name])
                        for name in astuple(self.columns)
                    ]
                    yield from map(Fields, *values)
                first += batch.num_rows
                if first >= stop:
                    return

    def _open(self, **options: Any) -> parquet.ParquetFile:  # noqa: ANN401 - pyarrow's own options
        # With pre_buffer, pyarrow would hold a whole row group and fetch it from its own threads.
        file = pa.PythonFile(_SourceFile(self._source), mode="r")
        return parquet.ParquetFile(file, pre_buffer=False, buffer_size=PIECE_BYTES, **options)


class _SourceFile(io.RawIOBase):
    """A byte source as a file, with the methods that pyarrow calls."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._source.size - self._position)
        data = self._source.read(self._position, rest if size < 0 else min(size, rest))
        self._position += len(data)
        return data


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


@contextmanager
def _parquet_errors(source: ByteSource) -> Iterator[None]:
    """Turn the errors of a file that pyarrow cannot read into ManifestError."""
    try:
        yield
    except MemoryError:  # pyarrow's own MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            f"{source.name} is not a Parquet file, or is damaged: {' '.join(str(error).split())}"
        ) from error
