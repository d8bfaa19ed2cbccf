"""Where each byte of the result comes from. The layout is computed from the headers of the chunks alone.

    offset  content
    0       HDF5's own metadata: attributes, names, shapes
    ...     chunks       the table of the chunks that are merged (see common.format.merged_chunks)
    ...     urls         one row after the other, in the order of the chunks
    ...     ids          only where the manifest has ids
    ...     embeddings   most of the bytes; the store can copy them by itself

The table is part of the metadata here, because its bytes come from no chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.format.hdf5 import Dataset, lay_out
from common.format.merged_chunks import DATASET, TABLE_DIGEST, TYPE, encode_table, merged_chunk, table_digest
from common.format.run_attributes import run_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from common.format.chunk_file import ChunkHeader
    from common.format.merged_chunks import MergedChunk
    from merger.totals import Totals

ALIGNMENT = 4096
"""Datasets begin at a multiple of this number of bytes, a memory page, so that a reader can map them."""

SMALL_BYTES = 2048
"""Smallest dataset, in bytes, that is aligned. HDF5 packs smaller ones together, and alignment would leave holes."""

METADATA = ""
"""Column name of the pieces that hold no rows: HDF5's own metadata, the table, and holes before aligned datasets."""

EMBEDDINGS = "embeddings"


class Piece(NamedTuple):
    """Consecutive rows of one column of one chunk, or bytes of the result's metadata."""

    column: str
    chunk: int
    """Position of the chunk among those that are merged, from 0; -1 for metadata."""
    first: int
    """The first row, counted within the chunk. For metadata: the offset of the first byte in the result."""
    rows: int
    """Number of rows. For metadata: number of bytes."""
    row_bytes: int
    """Size of a row in the result, where the rows of all chunks have the same size. For metadata: 1."""

    @property
    def size(self) -> int:
        """Bytes in the result."""
        return self.rows * self.row_bytes

    def part(self, start: int, rows: int) -> Piece:
        """Return `rows` rows of this piece, from its row `start` on."""
        return self._replace(first=self.first + start, rows=rows)


class Column(NamedTuple):
    """One dataset of the result."""

    name: str
    offset: int
    """Offset of the first row, in bytes."""
    row_bytes: int


class Layout(NamedTuple):
    size: int
    """Bytes of the result."""
    metadata: dict[int, bytes]
    """The bytes that are not rows, by offset. The first entry is HDF5's metadata with the table of the chunks; the
    others are holes, all zeros."""
    columns: Sequence[Column]
    """In the order of their offsets."""
    starts: Sequence[int]
    """For each chunk the row of the result where the chunk begins, and at the end the number of all rows."""

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def rows_of(self, column: Column, start: int, end: int) -> Iterator[Piece]:
        """Yield one piece for each chunk that has rows among the result's rows `start` to `end - 1`."""
        chunk = bisect_right(self.starts, start) - 1
        while start < end:
            stop = min(end, self.starts[chunk + 1])
            if stop > start:
                yield Piece(column.name, chunk, start - self.starts[chunk], stop - start, column.row_bytes)
            start, chunk = stop, chunk + 1

    def metadata_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the result that are not rows."""
        start = max(start for start in self.metadata if start <= offset)
        return self.metadata[start][offset - start : offset - start + length]

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces that make the result, from its first byte to its last, without a gap."""
        gaps = dict(self.metadata)
        offset = 0
        for column in (*self.columns, None):
            if gap := gaps.pop(offset, None):
                yield Piece(METADATA, -1, offset, len(gap), 1)
            if column is None or not self.rows:
                continue
            for chunk, (start, end) in enumerate(pairwise(self.starts)):
                if end > start:
                    yield Piece(column.name, chunk, 0, end - start, column.row_bytes)
            offset = column.offset + self.rows * column.row_bytes


def result_attributes(headers: Sequence[ChunkHeader], totals: Totals) -> dict[str, Any]:
    """Return the attributes of the result.

    They depend on the chunks alone, so that every merge of the same chunks writes the same bytes: `created_at` is that
    of the newest chunk.
    """
    created_at = max(header.created_at for header in headers)
    return run_attributes(headers[0].provenance) | {"created_at": created_at} | totals._asdict()


def compute_layout(
    headers: Sequence[ChunkHeader], attributes: dict[str, Any], table: Sequence[MergedChunk] | None = None
) -> Layout:
    """Return the layout of the result of these chunks, in the order given.

    All chunks with rows have the same dimensions, and either all have ids or none has. HDF5 decides the offsets. The
    `table` is what the result says about its chunks, by default what their headers say.
    """
    with_rows = [header for header in headers if header.embedded] or list(headers)
    starts = list(accumulate((header.embedded for header in headers), initial=0))
    encoded = encode_table([merged_chunk(header) for header in headers] if table is None else table)
    datasets = {}
    for name in ("urls", "ids"):
        if all(name in header.spans for header in with_rows):
            width = max(header.spans[name].row_bytes for header in with_rows)
            datasets[name] = Dataset((starts[-1],), np.dtype(f"S{width}"), {})
    dimensions = max(header.dimensions for header in with_rows)
    datasets[EMBEDDINGS] = Dataset((starts[-1], dimensions), np.dtype("<f4"), {})
    with_table = {DATASET: Dataset((len(headers),), TYPE, {TABLE_DIGEST: table_digest(encoded)})} | datasets
    skeleton = lay_out(attributes, with_table, alignment_threshold=SMALL_BYTES, alignment_interval=ALIGNMENT)
    columns = [Column(name, skeleton.offsets[name], dataset.row_bytes) for name, dataset in datasets.items()]
    columns.sort(key=lambda column: column.offset)
    metadata = _joined(skeleton.metadata | {skeleton.offsets[DATASET]: encoded})
    return Layout(skeleton.size, metadata, columns, starts)


def _joined(ranges: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the ranges, by offset, with those that lie behind each other as one."""
    joined: dict[int, list[bytes]] = {}
    start = end = -1
    for offset, data in sorted(ranges.items()):
        if offset != end:
            start = offset
        joined.setdefault(start, []).append(data)
        end = offset + len(data)
    return {offset: b"".join(parts) for offset, parts in joined.items()}
